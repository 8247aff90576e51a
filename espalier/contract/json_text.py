"""The one way in which anything here becomes JSON: text that every parser reads.

JSON has no NaN and no infinity, Python writes them all the same, and whoever reads such a file
either fails or takes them for measurements.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from espalier.errors import InputError


def to_json(
    value: Any,
    *,
    indent: int | None = None,
    sort_keys: bool = False,
    separators: tuple[str, str] | None = None,
    ensure_ascii: bool = True,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """`value` as JSON text; the arguments are those of `json.dumps`.

    Raises:
        InputError: a number in it is NaN or infinite; it says where.
    """
    try:
        return json.dumps(
            value,
            allow_nan=False,
            indent=indent,
            sort_keys=sort_keys,
            separators=separators,
            ensure_ascii=ensure_ascii,
            default=default,
        )
    except ValueError:  # it does not say where
        require_finite(value, default)
        raise


def require_finite(value: Any, default: Callable[[Any], Any] | None = None) -> None:
    """Refuse NaN and infinities anywhere in what is to become JSON.

    Raises:
        InputError: there is one; it says where.
    """
    place = next(_wrong(value, default), None)
    if place is not None:
        name = ".".join(place) or "a result"
        raise InputError(
            f"{name} became NaN or infinite, so nothing is written; use other tokens, or a model "
            "in bfloat16 or float32."
        )


def _wrong(value: Any, default: Callable[[Any], Any] | None) -> Iterator[tuple[str, ...]]:
    """The places, as keys and indices, of numbers that JSON does not have."""
    if isinstance(value, float):
        if not math.isfinite(value):
            yield ()
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from ((str(key), *rest) for rest in _wrong(part, default))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from ((str(index), *rest) for rest in _wrong(part, default))
    elif default is not None and not isinstance(value, str | int | None):
        yield from _wrong(default(value), default)
