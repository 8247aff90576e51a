"""Which blocks stay whatever their scores say, and which of the others go. Needs no torch."""

import math
from collections.abc import Sequence
from typing import Literal

from espalier.errors import InputError

Protect = Literal["scaled", "published", "none"]
FIRST, LAST, LAYERS = 4, 2, 32
"""The published heuristic keeps so many of the first and of the last blocks; made for 32 layers."""


def protected(layers: int, protect: Protect) -> set[int]:
    """The blocks of a model of `layers` that always stay.

    `published`: the first four and the last two, however few there are. `scaled`: an eighth of the
    layers at the front and a sixteenth at the end, each rounded up and at most as published: at 32
    layers and above it is the published rule.
    """
    if protect == "none":
        return set()
    first, last = FIRST, LAST
    if protect == "scaled":
        first = min(FIRST, math.ceil(layers * FIRST / LAYERS))
        last = min(LAST, math.ceil(layers * LAST / LAYERS))
    return {n for n in range(layers) if n < first or n >= layers - last}


def require_removable(layers: int, count: int, protect: Protect) -> None:
    """Refuse to remove more blocks than may go.

    Raises:
        InputError: fewer may.
    """
    stay = protected(layers, protect)
    may = layers - len(stay)
    if count > may:
        least = f"give LAYERS={layers - may} or more, or " if may else "give "
        raise InputError(
            f"{count} of {layers} blocks are to go and PROTECT={protect} lets {may} of them; "
            f"{least}another PROTECT."
        )


def removed(order: Sequence[int], count: int, protect: Protect) -> list[int]:
    """The blocks to go, the first in the order that may.

    Args:
        order: all blocks, the first to go first.
        count: how many go, at most as many as may.
        protect: which ones stay.
    """
    stay = protected(len(order), protect)
    return [block for block in order if block not in stay][:count]


def removed_by_the_reference(order: Sequence[int], count: int, protect: Protect) -> list[int]:
    """As `removed`; where too few may go, the last blocks that are left go too.

    So the reference does, silently: its new model has the layers asked for and is filled in order
    from what is left, protected or not.
    """
    gone = removed(order, count, protect)
    left = [block for block in range(len(order)) if block not in gone]
    return [*gone, *reversed(left)][:count]
