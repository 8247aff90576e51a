"""What an evaluation measures, part by part; each is saved as it ends, none is measured twice."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from espalier.contract.files import write_text
from espalier.contract.json_text import read_json, to_json
from espalier.contract.saved import note
from espalier.contract.stage import StageContext
from eval.results import plain

Part = dict[str, Any]
"""Of the schema of results what one text or one task fills, and under `config` how it was run."""
FOLDER = "parts"


def measured_parts(scratch: Path, measures: Mapping[str, Callable[[], Part]]) -> list[Part]:
    """Every part, those that an earlier, interrupted run has saved as they are there.

    Args:
        scratch: of the stage; it survives a failure.
        measures: in their order, by what they are called.

    Raises:
        InputError: a measurement is NaN or infinite.
        EnvironmentFailure: a part cannot be written.
    """
    parts, following = [], [*list(measures)[1:], "the results"]
    for (name, measure), after in zip(measures.items(), following, strict=True):
        file = _file(scratch, name)
        if not file.is_file():
            file.parent.mkdir(exist_ok=True)
            write_text(file, to_json(plain(measure()), ensure_ascii=False))
            note(scratch, after)
        parts.append(read_json(file, remedy="delete it"))
    return parts


def is_measured(scratch: Path, name: str) -> bool:
    """Whether an earlier, interrupted run has saved the part of that name."""
    return _file(scratch, name).is_file()


def _file(scratch: Path, name: str) -> Path:
    return scratch / FOLDER / f"{sha256(name.encode()).hexdigest()[:16]}.json"


def say_cut(context: StageContext, how: Mapping[str, Any]) -> None:
    """Tell of questions that the model saw only the end of; `how` they were run counts them."""
    if count := how.get("cut"):
        context.progress.say(
            f"{count} questions are longer than the model's window: what does not fit was cut off "
            "on the left, as lm-eval does it."
        )


def how_run(parts: Iterable[Part]) -> Part:
    """What the parts say under `config`, taken out of them: as the last one says, but for sums."""
    whole: Part = {}
    tokens, cut, fallbacks = Counter[str](), 0, dict[str, None]()
    for part in parts:
        config = part.pop("config", {})
        tokens.update(config.get("tokens", {}))
        cut += config.get("cut", 0)
        fallbacks |= dict.fromkeys(config.get("backend_fallback", ()))
        whole |= config
    if tokens:
        whole["tokens"] = dict(tokens)
    whole |= {"cut": cut} if "cut" in whole else {}
    return whole | ({"backend_fallback": list(fallbacks)} if fallbacks else {})
