"""Calibration windows: the tokens a pruning method sees, drawn as the published recipes draw them.

Documents (C4's rule): draw documents until one has more than `seqlen` tokens, then one offset in
it. Streams (WikiText's rule): all documents are one string; one offset a window. Both draw from
Python's own generator, seeded once, so the same seed gives the windows of the reference
implementations (locuslab/wanda, lib/data.py); as there, a document's last token enters no window.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier.data.text import Description, Documents, kind_of, split_files
from espalier.data.text_files import read_text
from espalier.data.token_ids import ModelLimits, check_ids, read_input_ids, sha256_of_ids
from espalier.errors import InputError
from espalier.models.tokenizer import load_tokenizer, probe_hash

if TYPE_CHECKING:
    import torch

Tokenize = Callable[[str], list[int]]

FEW_DOCUMENTS = 20_000
"""Up to here every document is measured first, so that a hopeless draw never starts."""
MAX_REJECTIONS = 50_000
"""Draws in a row without a long enough document, in a larger set."""
SPECIAL_TOKENS = 16
"""More than any tokenizer adds to a text; beyond these a text has at most one token a byte."""


@dataclass(frozen=True)
class Calibration:
    """Token ids int64 [samples, seqlen] and what is recorded about them."""

    input_ids: "torch.Tensor"
    record: dict[str, Any]

    @classmethod
    def of(
        cls, ids: "torch.Tensor", limits: ModelLimits, source: Path, record: dict[str, Any]
    ) -> "Calibration":
        """Windows int64 [samples, seqlen] of `source`, counted and hashed into `record`.

        Raises:
            InputError: the model has no embedding for an id.
        """
        check_ids(ids.numpy(), limits, source)
        counted = {"samples": ids.shape[0], "seqlen": ids.shape[1], "tokens": ids.numel()}
        return cls(ids, {**record, **counted, "sha256": sha256_of_ids(ids.numpy())})


def load_calibration(
    source: Path,
    model: Path,
    samples: int,
    seqlen: int | None,
    seed: int,
    *,
    window: int | None = None,
) -> Calibration:
    """Draw `samples` windows of `seqlen` tokens from `source`, in the ids of `model`'s tokenizer.

    Args:
        source: a .safetensors holding `input_ids` int [rows, tokens], used as it is (fewer samples
            or tokens take its leading part); a data set's directory; a .jsonl of `{"text": …}`; a
            .txt, read as one stream.
        model: a Hugging Face directory; its config.json bounds seqlen and ids.
        samples: the number of windows.
        seqlen: tokens a window; None: a .safetensors' own width, of anything else `window`.
        seed: of the draws.
        window: tokens a window where `seqlen` is None, or the model's positions where they are
            fewer; None: min(model's positions, 2048).

    Raises:
        InputError: the source cannot be read, is shorter than seqlen or does not fit the model.
    """
    import torch

    kind, limits = kind_of(source), ModelLimits.of(model)
    record: dict[str, Any] = {"source": source.name, "kind": kind}
    if kind == "tokens":
        ids = leading_part(source, samples, seqlen, limits)
    else:
        if seqlen is None and window is not None:
            seqlen = min(window, limits.positions)
        width = limits.window(seqlen)
        tokenizer = load_tokenizer(model)

        def tokenize(text: str) -> list[int]:
            tokens: list[int] = tokenizer(text)["input_ids"]
            return tokens

        rows, details = _drawn(source, tokenize, samples, width, random.Random(seed))  # noqa: S311
        ids = torch.tensor(rows, dtype=torch.int64)  # [samples, seqlen]
        record |= details | {"seed": seed, "tokenizer_probe": probe_hash(tokenizer)}
    return Calibration.of(ids, limits, source, record)


def leading_part(
    source: Path, samples: int, seqlen: int | None, limits: ModelLimits
) -> "torch.Tensor":
    """The first `samples` rows of a .safetensors' `input_ids`, and of each `seqlen` tokens.

    Raises:
        InputError: the file cannot be read, or its rows are shorter.
    """
    import torch

    ids = torch.from_numpy(read_input_ids(source))
    rows, width = ids.shape
    wanted = width if seqlen is None else seqlen
    if wanted > width:
        raise InputError(
            f"{source} is shorter than SEQLEN={wanted}: its rows have {width} tokens; "
            f"give SEQLEN={width} or less."
        )
    return ids[: min(samples, rows), : limits.window(wanted)].contiguous()


def _drawn(
    source: Path, tokenize: Tokenize, samples: int, seqlen: int, draw: random.Random
) -> tuple[list[list[int]], dict[str, Any]]:
    kind = kind_of(source)
    if kind == "text":
        return stream_windows(tokenize(read_text(source)), samples, seqlen, draw, source), {
            "rule": "stream"
        }
    if kind == "documents":
        return document_windows(Documents(source), tokenize, samples, seqlen, draw, source), {
            "rule": "documents"
        }
    about = Description.read(source)
    reading = about.calibration
    documents = Documents(*split_files(source, reading.split))
    details = {"source": about.name, "revision": about.revision, "split": reading.split}
    details["rule"] = reading.rule
    if reading.rule == "documents":
        return document_windows(documents, tokenize, samples, seqlen, draw, source), details
    stream = tokenize(reading.join.join(documents))
    return stream_windows(stream, samples, seqlen, draw, source), details | {"join": reading.join}


def stream_windows(
    stream: Sequence[int], samples: int, seqlen: int, draw: random.Random, source: Path
) -> list[list[int]]:
    """`samples` windows of `seqlen` ids at drawn offsets of one stream.

    Raises:
        InputError: the stream has no more than `seqlen` tokens.
    """
    if len(stream) <= seqlen:
        raise _too_short(source, seqlen, len(stream), "it has")
    offsets = [draw.randint(0, len(stream) - seqlen - 1) for _ in range(samples)]
    return [list(stream[start : start + seqlen]) for start in offsets]


def document_windows(  # noqa: PLR0917 - as stream_windows, and how to tokenise
    documents: Sequence[str],
    tokenize: Tokenize,
    samples: int,
    seqlen: int,
    draw: random.Random,
    source: Path,
) -> list[list[int]]:
    """`samples` windows of `seqlen` ids, each from a drawn document with more than `seqlen` tokens.

    Raises:
        InputError: no document is long enough.
    """
    known: dict[int, list[int]] = {}  # ids of the long enough; nothing for the others

    def tokens_of(index: int) -> list[int]:
        """Ids of a document, or nothing where it cannot be long enough."""
        if index not in known:
            text = documents[index]
            short = len(text.encode()) + SPECIAL_TOKENS <= seqlen  # spares tokenising it
            tokens = [] if short else tokenize(text)
            known[index] = tokens if len(tokens) > seqlen else []
        return known[index]

    few = len(documents) <= FEW_DOCUMENTS
    if few and not any(tokens_of(index) for index in range(len(documents))):
        raise _too_short(source, seqlen, _longest(documents, tokenize), "its longest document has")
    windows: list[list[int]] = []
    rejected = 0
    while len(windows) < samples:
        tokens = tokens_of(draw.randint(0, len(documents) - 1))
        if tokens:
            start = draw.randint(0, len(tokens) - seqlen - 1)
            windows.append(tokens[start : start + seqlen])
            rejected = 0
            continue
        rejected += 1
        if rejected == MAX_REJECTIONS:
            drawn = [documents[index] for index in known]
            found = f"the longest of {rejected} drawn documents has"
            raise _too_short(source, seqlen, _longest(drawn, tokenize), found)
    return windows


def _longest(documents: Sequence[str], tokenize: Tokenize) -> int:
    return max(len(tokenize(text)) for text in documents)


def _too_short(source: Path, seqlen: int, longest: int, what: str) -> InputError:
    return InputError(
        f"Calibration is shorter than SEQLEN={seqlen}: {what} {longest} tokens ({source}); "
        f"give SEQLEN={max(longest - 1, 2)} or less, or a longer text."
    )
