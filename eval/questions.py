"""The questions of a task as a tokenizer sees them, looked at before any model is loaded.

lm-eval asserts of each answer that it is a token or more, and no longer than the model's context,
and puts a begin token before an empty question. Where that fails it does so in a traceback, after
the model was loaded and perhaps hours of other questions.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from espalier.errors import InputError

AT_ONCE = 1000


@dataclass(frozen=True)
class Question:
    """A text and the answer whose probability is asked for; `place` is its file and line."""

    place: str
    context: str
    answer: str


@dataclass(frozen=True)
class Reader:
    """A model as far as questions go.

    Attributes:
        tokenizer: of transformers.
        positions: tokens that the model takes.
        begin: whether the tokenizer has a token that can stand before an empty question.
        apart: whether question and answer are tokenised apart, as lm-eval 0.3.0 does.
    """

    tokenizer: Any
    positions: int
    begin: bool
    apart: bool = False

    def check(self, questions: Iterable[Question]) -> None:
        """Look at each question.

        Raises:
            InputError: it cannot be put to the model.
        """
        waiting = iter(questions)
        while batch := list(islice(waiting, AT_ONCE)):
            befores = [] if self.apart else [self._before(question) for question in batch]
            wholes = [
                question.answer if self.apart else question.context + question.answer
                for question in batch
            ]
            lengths = self._lengths(wholes)
            taken = self._lengths(befores) if befores else [0] * len(batch)
            for question, whole, before in zip(batch, lengths, taken, strict=True):
                self._check(question, whole - before)

    def _check(self, question: Question, tokens: int) -> None:
        if question.context == "" and not self.begin:
            raise InputError(
                f"{question.place} has an answer with nothing before it, where a begin or end "
                "token has to stand, and the model's tokenizer has neither; name its bos_token in "
                "tokenizer_config.json."
            )
        if tokens < 1:
            raise InputError(
                f"{question.place} has an answer of no tokens, {question.answer[:40]!r}; correct "
                "the row or take it out."
            )
        if tokens > self.positions:
            raise InputError(
                f"{question.place} has an answer of {tokens} tokens, {question.answer[:40]!r}…, "
                f"and the model takes {self.positions}; take the row out."
            )

    @staticmethod
    def _before(question: Question) -> str:
        """What comes before the answer: spaces between belong to the answer, as in lm-eval."""
        return question.context.rstrip()

    def _lengths(self, texts: list[str]) -> list[int]:
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return list(map(len, ids))


@contextmanager
def fitting(name: str, place: Callable[[], str] | str) -> Iterator[None]:
    """A task's own code fails on other rows than its own in any way it likes."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001
        cause = error.__cause__ or error
        where = place if isinstance(place, str) else place()
        reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"[:200]
        raise InputError(
            f"{where} does not fit lm-eval's task {name} ({reason}); give the evaluated split's "
            "rows as the hub has them."
        ) from None
