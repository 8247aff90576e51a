"""What is asked of a model, as token ids: what it reads and what it is to give a chance of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]

UNKNOWN_NEXT = -1
"""The target of a prompt's last position: nobody knows it yet, the model is to say."""


@dataclass(frozen=True)
class Request:
    """One sequence that a model reads from its own position 0.

    Attributes:
        inputs: int32 [T], T >= 1; the last token of a continuation is no input.
        targets: int32 [K], 1 <= K <= T: the logits at the last K inputs are to give these.
    """

    inputs: Ids
    targets: Ids

    def __post_init__(self) -> None:
        if not 1 <= len(self.targets) <= len(self.inputs):
            raise ValueError(
                f"{len(self.targets)} targets of {len(self.inputs)} inputs: a target needs a token "
                "before it, and a request a target."
            )


def continued(context: Sequence[int], continuation: Sequence[int], window: int) -> Request:
    """A continuation's log-likelihood after a context; one of rolling windows is the same.

    What does not fit is cut off on the left, as lm-eval's `hf` does it: the model reads the last
    `window` tokens before the final one.

    Args:
        context: token ids, one or more.
        continuation: token ids, from 1 to `window`.
        window: tokens that the model takes.

    Raises:
        ValueError: either is empty, or the continuation is longer than the window.
    """
    if not context or not 1 <= len(continuation) <= window:
        raise ValueError(
            f"a context of {len(context)} and a continuation of {len(continuation)} tokens cannot "
            f"be asked of a window of {window}."
        )
    whole = np.asarray([*context, *continuation][-(window + 1) :], np.int32)
    return Request(whole[:-1], whole[len(whole) - len(continuation) :])


def rolling_text(ids: list[int], begin: int, bos: str) -> list[int]:
    """A rolling text's tokens: with `bos` `once`, without a begin token of the tokenizer's own.

    Args:
        ids: as the tokenizer gives them.
        begin: the token that the harness puts before them in any case.
        bos: `harness` or `once`.
    """
    return ids[1:] if bos == "once" and ids[:1] == [begin] else ids


def count_cut(requests: Iterable[tuple[Any, Sequence[int], Sequence[int]]], window: int) -> int:
    """Of how many requests, each a name, a context and what follows, `continued` cuts some off."""
    return sum(len(before) + len(after) > window + 1 for _, before, after in requests)


def prompt(context: Sequence[int], window: int, new_tokens: int) -> Request:
    """What is read before `new_tokens` are generated, cut off on the left to leave them room.

    Raises:
        ValueError: the context is empty, or the new tokens fill the window.
    """
    room = window - new_tokens
    if not context or room < 1:
        raise ValueError(
            f"a prompt of {len(context)} tokens has no room before {new_tokens} new ones in a "
            f"window of {window}."
        )
    return Request(np.asarray(context[-room:], np.int32), np.asarray([UNKNOWN_NEXT], np.int32))
