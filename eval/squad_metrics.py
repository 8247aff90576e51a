"""Exact match and token F1 as SQuAD defines them, where transformers has them no longer.

lm-eval 0.4.13 has ReCoRD (and other tasks) import them from transformers, which dropped them in 5.
"""

import importlib.util
import re
import string
import sys
from collections import Counter
from types import ModuleType

PACKAGE, NAME = "transformers.data.metrics", "squad_metrics"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(answer: str) -> str:
    """An answer in lower case without punctuation, articles and superfluous blanks."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def compute_exact(one: str, other: str) -> int:
    """1 where two answers are the same but for what normalising takes."""
    return int(normalize_answer(one) == normalize_answer(other))


def compute_f1(one: str, other: str) -> float:
    """The harmonic mean of the shares of words of each that the other has too."""
    words, others = normalize_answer(one).split(), normalize_answer(other).split()
    if not (words and others):
        return float(words == others)
    return 2 * (Counter(words) & Counter(others)).total() / (len(words) + len(others))


def offer() -> None:
    """Let tasks import them from where they were, if nothing is there."""
    if PACKAGE in sys.modules or importlib.util.find_spec(PACKAGE):
        return
    package = ModuleType(PACKAGE)
    package.__path__ = []
    setattr(package, NAME, sys.modules[__name__])
    sys.modules |= {PACKAGE: package, f"{PACKAGE}.{NAME}": sys.modules[__name__]}
