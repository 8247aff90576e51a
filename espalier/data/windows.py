"""Tokens that scores are measured on: windows of one stream, from its start, side by side.

Unlike the windows that a pruning method is calibrated with, these are not drawn: the published
depth and width prunings cut a stream into windows from the first token on.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from espalier.data.calibration import Calibration, leading_part
from espalier.data.text import Description, Reading, joined, kind_of, split_files
from espalier.data.text_files import read_text
from espalier.data.token_ids import ModelLimits
from espalier.errors import InputError
from espalier.models.tokenizer import load_tokenizer, probe_hash

DOCUMENTS = Reading("train", "stream", " ", documents=8000)
"""How documents make one stream in the published recipes."""


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
    kind, limits = kind_of(source), ModelLimits.of(model)
    record: dict[str, Any] = {"source": source.name, "kind": kind, "rule": "leading windows"}
    if kind == "tokens":
        windows = leading_part(source, samples, seqlen, limits)
    else:
        width = limits.window(seqlen)
        text, details = _text(source, kind)
        tokenizer = load_tokenizer(model)
        stream = torch.tensor(tokenizer(text)["input_ids"], dtype=torch.int64)
        if len(stream) < width:
            raise InputError(
                f"{source} is shorter than SEQLEN={width}: it has {len(stream)} tokens; give "
                f"SEQLEN={len(stream)} or less, or a longer text."
            )
        count = min(samples, len(stream) // width)
        windows = stream[: count * width].view(count, width)
        record |= details | {"tokenizer_probe": probe_hash(tokenizer)}
    return Calibration.of(windows, limits, source, record)


def _text(source: Path, kind: str) -> tuple[str, dict[str, Any]]:
    if kind == "text":
        return read_text(source), {"join": "one text"}
    if kind == "documents":
        return joined([source], DOCUMENTS), {"join": DOCUMENTS.join}
    about = Description.read(source)
    reading = about.scores or _by_default(about.calibration)
    text = joined(split_files(source, reading.split), reading)
    details = {"source": about.name, "revision": about.revision, "split": reading.split}
    return text, details | {"join": reading.join}


def _by_default(calibration: Reading) -> Reading:
    as_documents = calibration.rule == "documents"
    return replace(DOCUMENTS, split=calibration.split) if as_documents else calibration
