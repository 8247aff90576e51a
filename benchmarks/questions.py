"""Questions to measure evaluations with: random token ids, of lengths as tasks have them.

A text is its token ids in decimal, so that no tokenizer is measured.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance


class OfIds:
    """Reads such texts."""

    def tok_encode(self, string: str, *_: Any, **__: Any) -> list[int]:
        """The ids that a text spells out."""
        return [int(word) for word in string.split()]


def pairs(rng: random.Random, vocabulary: int, scale: float) -> list[Instance]:
    """As BLiMP's: sentences of eight to sixteen tokens that part somewhere."""
    texts = []
    for _ in range(int(500 * scale)):
        shared = _text(rng, vocabulary, 2, 8)
        texts += [("", f"{shared} {_text(rng, vocabulary, 3, 8)}") for _ in range(2)]
    return _instances("loglikelihood", texts)


def few_shot(rng: random.Random, vocabulary: int, scale: float) -> list[Instance]:
    """As ARC's: five examples drawn anew for each question, four answers of several tokens."""
    texts = []
    for _ in range(int(20 * scale)):
        context = _text(rng, vocabulary, 180, 320)
        texts += [(context, f" {_text(rng, vocabulary, 2, 8)}") for _ in range(4)]
    return _instances("loglikelihood", texts)


def rolling(rng: random.Random, vocabulary: int, scale: float) -> list[Instance]:
    """As WikiText's documents: some shorter than the window, most of several windows."""
    texts = [(_text(rng, vocabulary, 100, 2600),) for _ in range(max(1, int(12 * scale)))]
    return _instances("loglikelihood_rolling", texts)


TASKS: dict[str, Callable[[random.Random, int, float], list[Instance]]] = {
    "pairs": pairs, "5-shot": few_shot, "rolling": rolling,
}  # fmt: skip


def _text(rng: random.Random, vocabulary: int, least: int, most: int) -> str:
    count = rng.randint(least, most)
    return " ".join(str(rng.randint(2, vocabulary - 1)) for _ in range(count))


def _instances(kind: str, texts: Sequence[tuple[str, ...]]) -> list[Instance]:
    return [Instance(kind, {}, arguments, index) for index, arguments in enumerate(texts)]
