"""From what DATA says to sequences of token ids: instructions, a text, or token data."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from espalier.data.formats import SPOKEN, TEXT, files_of, format_of
from espalier.data.instructions import (
    Instruction,
    columns_of,
    has_instructions,
    instructions_of,
)
from espalier.data.text_files import documents_of
from espalier.data.tokenizing import Tokenizing
from espalier.data.tokens import is_token_data
from espalier.data.tokens.reader import TokenData
from espalier.errors import InputError
from espalier.models.shapes import Shapes
from training.gpu_fsdp.batches import Windows
from training.recover.examples import Data, Examples, Ids
from training.recover.spec import HELD_OUT, INSTRUCTION, WINDOW, RecoverParameters

BLOCK = 1024
"""Texts that are tokenised at once."""
Item = TypeVar("Item")


def read_data(place: Path, model: Path, shapes: Shapes, parameters: RecoverParameters) -> Data:
    """What is trained on, in ids of the model's tokenizer.

    Raises:
        InputError: it is of no kind that is known, or nothing of it can be trained on.
    """
    if is_token_data(place):
        return _packed(place, model, shapes, parameters)
    training, validation = _files(place)
    read = _text if _holds_text(training[0]) else _instructions
    return read(training, validation, Tokenizing.of(model), shapes, parameters)


def _text(
    training: list[Path],
    validation: list[Path],
    tokenizing: Tokenizing,
    shapes: Shapes,
    parameters: RecoverParameters,
) -> Data:
    """Windows of a text; what is held out of it is its end, since neighbours are of one document.

    Raises:
        InputError: it has not even one window.
    """
    seqlen = _seqlen(parameters, shapes, WINDOW)
    found, own = (_windows(files, tokenizing, seqlen) for files in (training, validation))
    if not len(found):
        raise InputError(
            f"{training[0]} has too few tokens for a sequence of SEQLEN={seqlen}; give a smaller "
            "SEQLEN, or more data."
        )
    order = np.arange(len(found))
    return _divided(found, own, kind="text", order=order, seqlen=seqlen, valid=parameters.valid)


def _instructions(
    training: list[Path],
    validation: list[Path],
    tokenizing: Tokenizing,
    shapes: Shapes,
    parameters: RecoverParameters,
) -> Data:
    """Prompts with their outputs; those that are held out are drawn by SEED.

    Raises:
        InputError: nothing is left of any output.
    """
    seqlen, prompt_loss = _seqlen(parameters, shapes, INSTRUCTION), parameters.prompt_loss
    found, cut, left_out = _examples(training, tokenizing, seqlen, prompt_loss)
    own, _, _ = _examples(validation, tokenizing, seqlen, prompt_loss)
    if not len(found):
        raise InputError(
            f"the prompts of all {left_out:,} rows of {training[0].name} have SEQLEN={seqlen} "
            "tokens or more, so that nothing is left of any output; give a larger SEQLEN."
        )
    order = np.random.default_rng(parameters.seed).permutation(len(found))
    data = _divided(
        found, own, kind="instructions", order=order, seqlen=seqlen, valid=parameters.valid
    )
    said = {
        f"{left_out:,} rows are left out: their prompts have SEQLEN={seqlen} tokens or more.":
            left_out,
        f"{cut:,} rows are cut at SEQLEN={seqlen} tokens, within their outputs.": cut,
    }  # fmt: skip
    notices = (*data.notices, *(line for line, count in said.items() if count))
    return replace(data, notices=notices, record={**data.record, "left_out": left_out, "cut": cut})


def _packed(place: Path, model: Path, shapes: Shapes, parameters: RecoverParameters) -> Data:
    """Token data, in windows that are read when they are needed."""
    tokens = TokenData(place)
    tokens.require_fit(model, shapes.vocabulary)
    tokens.verify()
    seqlen = _seqlen(parameters, shapes, WINDOW)
    train = Windows(tokens, "train", seqlen, document_mask=False)
    if not train.count:
        raise InputError(
            f"{place} has too few training tokens for a sequence of SEQLEN={seqlen}; give a "
            "smaller SEQLEN, or more data."
        )
    valid = Windows(tokens, "valid", seqlen, document_mask=False)
    held_out = min(parameters.valid, valid.count)
    return Data(
        kind="tokens",
        train=train,
        lengths=np.full(train.count, seqlen),
        valid=valid if held_out else None,
        held_out=held_out,
        seqlen=seqlen,
        record={"sequences": train.count, "held_out": held_out},
    )


def _files(place: Path) -> tuple[list[Path], list[Path]]:
    """The files that are trained on, and those that are named for validation.

    Raises:
        InputError: there are none of the first kind.
    """
    if place.is_file():
        return [place], []
    found = files_of(place)
    training = found.get("train", found.get(None, []))
    if not training:
        raise InputError(
            f"the files of {place} are all named for {' and '.join(map(str, found))}; name those "
            "for training (such as train-…), or give one file."
        )
    return training, found.get("validation", [])


def _holds_text(file: Path) -> bool:
    """Whether a file holds texts, and not instructions.

    Raises:
        InputError: it holds neither.
    """
    form = format_of(file.name)
    if form is None:
        raise InputError(
            f"{file} is neither instructions nor a text; give {SPOKEN}, or token data of make data."
        )
    if form.startswith(TEXT):
        return True
    columns = columns_of(file)
    if not columns:
        raise InputError(f"{file} holds no rows; give others.")
    if not has_instructions(columns) and "text" not in columns:
        raise InputError(
            f"{file} holds neither instructions nor texts (its rows have {', '.join(columns)}); "
            "give rows of instruction, input and output, or of text."
        )
    return not has_instructions(columns)


def _seqlen(parameters: RecoverParameters, shapes: Shapes, usual: int) -> int:
    """SEQLEN, or what is usual.

    Raises:
        InputError: it is longer than the model's positions.
    """
    longest = parameters.sequence_length(shapes.positions)
    return longest if parameters.seqlen else min(longest, usual)


def _windows(files: list[Path], tokenizing: Tokenizing, seqlen: int) -> Examples:
    """One stream of all documents, each in its BOS and EOS, in windows that share an id."""
    frame, parts = tokenizing.frame, []
    for block in _blocks(chain.from_iterable(map(documents_of, files))):
        parts += [frame.around(frame.without(ids)) for ids in tokenizing(block) if ids]
    stream = np.concatenate([np.zeros(0, np.int32), *parts]).astype(np.int32)
    count = max(0, len(stream) - 1) // seqlen
    ids = [stream[n * seqlen : (n + 1) * seqlen + 1] for n in range(count)]
    return Examples(ids, np.zeros(count, np.int64))


def _examples(
    files: list[Path], tokenizing: Tokenizing, seqlen: int, prompt_loss: bool
) -> tuple[Examples, int, int]:
    """Instructions with their outputs; how many were cut, and how many left out."""
    kept: list[Ids] = []
    given: list[int] = []
    cut = left_out = 0
    frame = tokenizing.frame
    before = 0 if frame.bos is None else 1
    for block in _blocks(chain.from_iterable(map(instructions_of, files))):
        for ids, prompt in tokenizing.after(*_pieces(block)):
            whole = frame.around(ids).astype(np.int32)
            first = 0 if prompt_loss else before + prompt
            if min(len(whole), seqlen) <= max(first, 1):
                left_out += 1
                continue
            cut += len(whole) > seqlen
            kept.append(whole[:seqlen])
            given.append(first)
    return Examples(kept, np.asarray(given, np.int64)), cut, left_out


def _pieces(block: list[Instruction]) -> tuple[list[str], list[int]]:
    """Each instruction with its output as one text, and where the output begins."""
    return [one.prompt + one.output for one in block], [len(one.prompt) for one in block]


def _blocks(items: Iterable[Item]) -> Iterator[list[Item]]:
    remaining = iter(items)
    while block := list(islice(remaining, BLOCK)):
        yield block


def _divided(
    found: Examples,
    own: Examples,
    *,
    kind: str,
    order: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    seqlen: int,
    valid: int,
) -> Data:
    """What is trained on and what is held out: the data's own validation, or the last in `order`.

    Args:
        found: what there is for training.
        own: what is named for validation.
        kind: of the data.
        order: of all of `found`.
        seqlen: tokens of the longest.
        valid: held out at most.
    """
    notices: tuple[str, ...] = ()
    if len(own):
        train, apart = found, own.of(np.arange(min(valid, len(own))))
    else:
        held_out = min(valid, len(found) // HELD_OUT)
        if held_out < valid:
            notices = (
                f"{held_out:,} of {len(found):,} sequences are held out, a tenth of them, and not "
                f"VALID={valid}.",
            )
        end = len(found) - held_out
        train, apart = found.of(np.sort(order[:end])), found.of(np.sort(order[end:]))
    return Data(
        kind=kind,
        train=train,
        lengths=train.lengths,
        valid=apart if len(apart) else None,
        held_out=len(apart),
        seqlen=seqlen,
        notices=notices,
        record={"sequences": len(train), "held_out": len(apart), "ids_sha256": train.sha256},
    )
