"""One request of a task as a model was asked and answered it: a line of `samples.jsonl`.

Every backend and both harnesses write the same, so that two evaluations can be held against each
other request by request. Read on the host too: nothing of the model stack is imported.
"""

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from espalier.contract.files import replacing
from espalier.contract.json_text import to_json
from espalier.errors import InputError

SAMPLES = "samples.jsonl"
PAIR, ROLLING, GENERATION = "loglikelihood", "loglikelihood_rolling", "generate_until"
"""The kinds of requests, as lm-eval 0.4 calls them."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a model read of a request; what does not fit into it is cut off.

    Attributes:
        context: tokens before those whose log-likelihood is asked for.
        continuation: tokens whose log-likelihood is asked for.
        begin: the begin and end tokens that all begins with, as text; mostly none or one.
        ids: a hash of the ids after those.
    """

    context: int
    continuation: int
    begin: str
    ids: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A request and its answer.

    Attributes:
        task: its name in results.
        document: the line of the task's rows, from 1; the document's own number where the task
            makes other documents of its rows.
        request: its number among those of the document, from 0.
        kind: PAIR, ROLLING or GENERATION.
        context: the text before; of ROLLING none.
        continuation: whose log-likelihood it is; of PAIR alone.
        text: sha256 of the text whose log-likelihood it is; of ROLLING alone.
        loglikelihood: of the continuation, or of the text.
        greedy: whether the continuation is what the model would have said.
        generated: the text that the model went on with; of GENERATION alone.
        tokens: what the model read; nobody knows it of GENERATION.
    """

    task: str
    document: int
    request: int
    kind: str
    context: str | None = None
    continuation: str | None = None
    text: str | None = None
    loglikelihood: float | None = None
    greedy: bool | None = None
    generated: str | None = None
    tokens: Tokens | None = None

    def line(self) -> str:
        """As JSON, without what a request of its kind does not have.

        Raises:
            InputError: its log-likelihood is NaN or infinite.
        """
        found = {name: value for name, value in asdict(self).items() if value is not None}
        return to_json(found, ensure_ascii=False)


_SAMPLE = TypeAdapter(Sample)


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write the samples of one task or of several, a line each.

    Raises:
        EnvironmentFailure: the disk is full or cannot be written.
        InputError: a log-likelihood is NaN or infinite.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for sample in samples:
            file.write(sample.line() + "\n")


def samples_of_task(folder: Path, task: str) -> Path:
    """The file in a folder that one task's samples are in until all tasks are done."""
    return folder / f"{hashlib.sha256(task.encode()).hexdigest()[:16]}.{SAMPLES}"


def join_samples(folder: Path, tasks: Iterable[str], evaluation: Path) -> None:
    """Write the samples of all tasks, which lie in a folder each in its file, as one file.

    Raises:
        EnvironmentFailure: the disk is full or cannot be written.
    """
    with replacing(evaluation / SAMPLES) as temporary, temporary.open("wb") as whole:
        for task in tasks:
            with samples_of_task(folder, task).open("rb") as part:
                shutil.copyfileobj(part, whole)


def read_samples(evaluation: Path) -> dict[str, list[Sample]]:
    """The samples of an evaluation by task.

    Args:
        evaluation: its directory.

    Raises:
        InputError: it has none, or a line is no sample.
    """
    path, found = evaluation / SAMPLES, dict[str, list[Sample]]()
    if not path.is_file():
        raise InputError(
            f"{evaluation} has no {SAMPLES}; evaluate it with LOG_SAMPLES=1, and compare that."
        )
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                sample = _SAMPLE.validate_json(line)
            except ValidationError:
                raise InputError(f"{path}:{number} is no sample; evaluate it anew.") from None
            found.setdefault(sample.task, []).append(sample)
    return found
