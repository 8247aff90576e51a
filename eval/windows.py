"""From a text source to the windows whose perplexity is measured, and what is recorded of them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from espalier.contract.stage import StageContext
from espalier.data.text import (
    Description,
    Reading,
    joined,
    kind_of,
    sha256_of_file,
    split_files,
)
from espalier.data.text_files import read_text
from espalier.data.token_ids import ModelLimits, check_ids, read_input_ids, sha256_of_ids
from espalier.errors import InputError
from espalier.models.tokenizer import load_tokenizer, probe_hash
from eval.spec import EvalParameters
from eval.suites.suite import SUITES, WHOLE, Bounds

Windows = NDArray[np.int64]


@dataclass(frozen=True)
class TestText:
    """Windows int64 [windows, seqlen] and the record that makes their perplexity comparable."""

    __test__ = False  # not a test, whatever its name

    name: str
    windows: Windows
    record: dict[str, Any]


def asked_text(context: StageContext, parameters: EvalParameters) -> TestText | None:
    """The text whose perplexity a stage is asked for, if it is.

    Args:
        context: inputs `model`, and `data` where there is a text.
        parameters: of the evaluation.

    Raises:
        InputError: the suite wants a text and there is none, or `load_windows` refuses it.
    """
    suite, source = SUITES[parameters.suite], context.inputs.get("data")
    if source is None and suite.perplexity:
        raise InputError(f"SUITE={parameters.suite} measures perplexity: give DATA=<a text>.")
    if source is None:
        return None
    bounds = suite.bounds.limited(parameters.limit)
    model = context.inputs["model"]
    return load_windows(source, model, parameters.seqlen, parameters.split, bounds)


def load_windows(
    source: Path,
    model: Path,
    seqlen: int | None,
    split: str | None,
    bounds: Bounds = WHOLE,
) -> TestText:
    """Read `source` as one stream of the model's tokens and cut it.

    A .safetensors' rows of `input_ids` are windows as they are.

    Args:
        source: .safetensors, .txt, .jsonl or a data set's directory.
        model: a Hugging Face directory: its tokenizer, positions and vocabulary.
        seqlen: tokens a window; None: the model's positions within the bounds, or the rows' own
            width.
        split: of a data set; None: the one its description names.
        bounds: how much of it.

    Raises:
        InputError: the source cannot be read, or gives no window.
    """
    limits = ModelLimits.of(model)
    if kind_of(source) == "tokens":
        rows = read_input_ids(source)
        width = limits.window(seqlen or rows.shape[1])
        if width > rows.shape[1]:
            raise InputError(
                f"{source} has rows of {rows.shape[1]} tokens; give SEQLEN={rows.shape[1]} or less."
            )
        windows, name = rows[:, :width], source.stem
        record: dict[str, Any] = {"source": source.name, "join": "rows as they are"}
    else:
        width = limits.window(seqlen or min(limits.positions, bounds.seqlen))
        text, record = _text(source, split)
        name = str(record["name"])
        tokenizer = load_tokenizer(model)
        stream = np.array(tokenizer(text)["input_ids"], np.int64)
        windows = cut_windows(stream, width)
        begins = stream[:1].tolist() == [tokenizer.bos_token_id]
        record |= {"stream_tokens": len(stream), "tokenizer_probe": probe_hash(tokenizer)}
        record |= {"begin_token": tokenizer.bos_token if begins else None}
        if len(windows) == 0:
            asked = f"SEQLEN={width}" if seqlen else f"a window of {width}"
            shorter = f"give SEQLEN={len(stream)} or less, or " if len(stream) > 1 else "give "
            raise InputError(
                f"{source} is shorter than {asked}: it has {len(stream)} tokens; {shorter}"
                "a longer text."
            )
    check_ids(windows, limits, source)
    available = min(len(windows), record.pop("windows", None) or len(windows))
    wanted = bounds.count(available, width)
    windows = np.ascontiguousarray(windows[:wanted])
    record |= {
        "seqlen": width,
        "windows": wanted,
        "windows_available": available,
        "tokens": wanted * (width - 1),
        "sha256": sha256_of_ids(windows),
    }
    return TestText(name, windows, record)


def cut_windows(stream: NDArray[np.int64], seqlen: int) -> Windows:
    """Windows int64 [windows, seqlen] of a stream int64 [tokens]; the tail is dropped."""
    windows = len(stream) // seqlen
    return stream[: windows * seqlen].reshape(windows, seqlen)


def _text(source: Path, split: str | None) -> tuple[str, dict[str, Any]]:
    kind = kind_of(source)
    if kind == "text":
        name = source.stem
        return read_text(source), _file_record(name, source) | {"join": "one text"}
    if kind == "documents":
        reading = Reading(source.stem, "stream")
        name = source.name.split(".")[0]
        return joined([source], reading), _file_record(name, source) | {"join": reading.join}
    about = Description.read(source)
    reading = replace(about.perplexity, split=split) if split else about.perplexity
    record = {
        "name": about.name,
        "source": about.source or source.name,
        "revision": about.revision,
        "split": reading.split,
        "join": reading.join,
        "documents": reading.documents,
        "windows": reading.windows,
    }
    return joined(split_files(source, reading.split), reading), record


def _file_record(name: str, source: Path) -> dict[str, Any]:
    return {"name": name, "source": source.name, "revision": f"sha256:{sha256_of_file(source)}"}
