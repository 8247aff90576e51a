"""Which weights unstructured pruning zeroes. Needs no torch."""

from collections.abc import Sequence


def is_masked(name: str, shape: Sequence[int]) -> bool:
    """Whether a parameter, by its Hugging Face name, is one of those: a layer's matrix."""
    return ".layers." in name and len(shape) == 2
