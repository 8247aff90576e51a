"""Tokens that scores are measured on: windows of one stream, from its start, side by side.

Unlike the windows that a pruning method is calibrated with, these are not drawn: the published
depth and width prunings cut a stream into windows from the first token on.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from espalier.calibration import Calibration
from espalier.errors import InputError
from espalier.text import Description, Documents, Reading, kind_of, read_text, split_file
from espalier.tokenized import Limits, check_ids, load_tokenizer, read_input_ids, sha256_of_ids

MAX_DOCUMENTS = 8000
"""Of a set of documents, so many make the stream: the published recipe's number."""


def leading_windows(source: Path, model: Path, samples: int, seqlen: int | None) -> Calibration:
    """At most `samples` windows of `seqlen` tokens from the start of `source`.

    Args:
        source: a .safetensors holding `input_ids`, whose rows are windows as they are; a .txt; a
            .jsonl or a data set's directory, whose documents are joined.
        model: a Hugging Face directory: tokenizer, positions and vocabulary.
        samples: the most windows; a shorter text gives fewer.
        seqlen: tokens a window; None: min(model's positions, 2048), or the rows' own width.

    Raises:
        InputError: the source cannot be read, gives no window or does not fit the model.
    """
    kind, limits = kind_of(source), Limits.of(model)
    record: dict[str, Any] = {"source": source.name, "kind": kind, "rule": "leading windows"}
    if kind == "tokens":
        ids = read_input_ids(source)
        width = limits.window(seqlen or ids.shape[1])
        if width > ids.shape[1]:
            raise _too_short(source, width, ids.shape[1], "its rows have")
        windows = ids[:samples, :width]
    else:
        width = limits.window(seqlen)
        text, details = _text(source, kind)
        stream = torch.tensor(load_tokenizer(model)(text)["input_ids"], dtype=torch.int64)
        if len(stream) < width:
            raise _too_short(source, width, len(stream), "it has")
        count = min(samples, len(stream) // width)
        windows = stream[: count * width].view(count, width)
        record |= details
    check_ids(windows, limits, source)
    windows = windows.contiguous()
    record |= {
        "samples": windows.shape[0],
        "seqlen": windows.shape[1],
        "tokens": windows.numel(),
        "sha256": sha256_of_ids(windows),
    }
    return Calibration(windows, record)


def _text(source: Path, kind: str) -> tuple[str, dict[str, Any]]:
    if kind == "text":
        return read_text(source), {"join": "one text"}
    if kind == "documents":
        return _joined(source, " ", MAX_DOCUMENTS), {"join": " "}
    about = Description.read(source)
    reading = about.scores or _by_default(about.calibration)
    text = _joined(split_file(source, reading.split), reading.join, reading.documents)
    details = {"source": about.name, "revision": about.revision, "split": reading.split}
    return text, details | {"join": reading.join}


def _by_default(calibration: Reading) -> Reading:
    most = MAX_DOCUMENTS if calibration.rule == "documents" else calibration.documents
    join = " " if calibration.rule == "documents" else calibration.join
    return Reading(calibration.split, "stream", join, most)


def _joined(path: Path, join: str, most: int | None) -> str:
    documents: Iterator[str] = iter(Documents(path))
    return join.join(islice(documents, most))


def _too_short(source: Path, width: int, longest: int, what: str) -> InputError:
    return InputError(
        f"{source} is shorter than SEQLEN={width}: {what} {longest} tokens; give "
        f"SEQLEN={longest} or less, or a longer text."
    )
