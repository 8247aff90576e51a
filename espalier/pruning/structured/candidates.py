"""PARAMS=4B: which shape. Needs no torch.

The rule: among the shapes within 3 % of the parameters asked for (or the nearest, where none is),
the one whose sizes shrink most evenly, in proportion to the parent's; of those that are alike in
this, to a twentieth, the nearest.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.table import Table

from espalier.contract.measure import show_size
from espalier.errors import InputError
from espalier.models.shapes import Shapes
from espalier.pruning.structured.parameters import FIELDS, Axis, short_count

TOLERANCE = 0.03
ALIKE = 0.05
SHOWN = 8
MAX_STEP = 128
"""Between two widths that are tried; a power of two, at most a sixteenth of the parent's."""


@dataclass(frozen=True)
class Candidate:
    """A shape and how it compares.

    Attributes:
        spread: largest over smallest of the searched sizes' shares of the parent's; 1 is even.
        gap: parameters over those asked for, less one.
    """

    shapes: Shapes
    spread: float
    gap: float


def candidates(
    parent: Shapes, wanted: int, axes: Sequence[Axis], fixed: Shapes | None = None
) -> list[Candidate]:
    """Shapes of about `wanted` parameters, the chosen one first.

    Args:
        parent: what is pruned.
        wanted: parameters to be left.
        axes: the sizes to choose.
        fixed: the parent with the sizes that were given (heads); default the parent.

    Raises:
        InputError: the parent has no more than `wanted`.
    """
    if wanted >= parent.parameters:
        raise InputError(
            f"PARAMS={wanted} is not below the parent's {parent.parameters}; give fewer."
        )
    found = [_candidate(parent, shapes, wanted, axes) for shapes in _grid(fixed or parent, axes)]
    near = [candidate for candidate in found if abs(candidate.gap) <= TOLERANCE]
    if near:
        return sorted(near, key=lambda c: (int((c.spread - 1) / ALIKE), abs(c.gap)))
    return sorted(found, key=lambda c: abs(c.gap))


def candidates_table(chosen: Sequence[Candidate], wanted: int) -> Table:
    """What PARAMS chose (the first row), and what else came near."""
    table = Table(
        title=f"PARAMS={wanted:,}: within {TOLERANCE:.0%} the sizes that shrink most evenly, first",
        caption="parameters without norms and biases; spread: largest share kept over smallest; "
        "KV cache of 1024 tokens",
        box=None,
        pad_edge=False,
    )
    headings = ("layers", "hidden", "FFN", "heads", "parameters", "off by", "spread")
    for heading in (*headings, "weights", "KV cache"):
        table.add_column(heading, justify="right", no_wrap=True)
    for candidate in chosen[:SHOWN]:
        shapes = candidate.shapes
        cache = 2 * 1024 * shapes.layers * shapes.kv_heads * shapes.head_dim * shapes.item_bytes
        table.add_row(
            str(shapes.layers),
            str(shapes.hidden),
            str(shapes.intermediate),
            f"{shapes.heads}/{shapes.kv_heads}",
            short_count(shapes.parameters),
            f"{candidate.gap:+.1%}",
            f"{candidate.spread:.2f}",
            show_size(shapes.parameters * shapes.item_bytes),
            show_size(cache),
            style="bold" if candidate is chosen[0] else "",
        )
    return table


def _candidate(parent: Shapes, shapes: Shapes, wanted: int, axes: Sequence[Axis]) -> Candidate:
    shares = [getattr(shapes, FIELDS[axis]) / getattr(parent, FIELDS[axis]) for axis in axes]
    return Candidate(shapes, max(shares) / min(shares), shapes.parameters / wanted - 1)


def _grid(start: Shapes, axes: Sequence[Axis]) -> Iterator[Shapes]:
    sizes = [_sizes(axis, start) for axis in axes]
    for values in itertools.product(*sizes):
        changes: dict[str, Any] = {FIELDS[a]: v for a, v in zip(axes, values, strict=True)}
        shapes = replace(start, **changes)
        if shapes != start:
            yield shapes


def _sizes(axis: Axis, start: Shapes) -> list[int]:
    """Every depth; widths in steps that kernels like and, of channels, that the heads divide."""
    most: int = getattr(start, FIELDS[axis])
    step = 1
    if axis != "layers":
        step = min(MAX_STEP, 1 << max(0, (most // 16).bit_length() - 1))
    if axis == "hidden":
        step = math.lcm(step, start.heads)
    return [*range(step, most, step), most]
