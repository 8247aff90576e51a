"""Whether a sparsity removes anything at all of matrices of some sizes. Needs no torch."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from espalier.errors import InputError
from espalier.models.shapes import Shapes

STEPS = 10**6
"""In so many parts of 1 the least sparsity that reaches a matrix is told."""


class Rounding(Protocol):
    """What a method makes of a sparsity."""

    def attainable(self, rows: int, columns: int, sparsity: float) -> int:
        """How many weights of a [rows, columns] matrix it zeroes; no less for more sparsity."""


def untouched_matrices(
    method: Rounding, sparsities: Sequence[float], shapes: Shapes
) -> tuple[str, ...]:
    """The matrices of a layer, by name, of which no weight goes in any layer.

    Args:
        method: what rounds.
        sparsities: of each layer.
        shapes: the sizes of the layers.

    Raises:
        InputError: no weight of any matrix goes.
    """
    untouched = tuple(
        name
        for name, shape in shapes.matrices.items()
        if not any(method.attainable(*shape, sparsity) for sparsity in sparsities)
    )
    if len(untouched) == len(shapes.matrices):
        widths = sorted({columns for _, columns in shapes.matrices.values()})
        raise InputError(
            f"SPARSITY={max(sparsities):g} is less than one weight of every matrix of this model, "
            f"whose rows have {' or '.join(map(str, widths))} weights: nothing would be removed; "
            f"give SPARSITY={least_sparsity(method, shapes)} or more."
        )
    return untouched


def least_sparsity(method: Rounding, shapes: Shapes) -> str:
    """The least sparsity, in decimals, at which each matrix loses a weight or more."""
    low, high = 0, STEPS
    while high - low > 1:
        middle = (low + high) // 2
        if all(_counts(method, shapes, middle / STEPS)):
            high = middle
        else:
            low = middle
    return f"{high / STEPS:.6f}".rstrip("0").rstrip(".")


def _counts(method: Rounding, shapes: Shapes, sparsity: float) -> Iterator[int]:
    for shape in shapes.matrices.values():
        yield method.attainable(*shape, sparsity)
