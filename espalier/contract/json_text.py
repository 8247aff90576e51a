"""The one way in which anything here becomes JSON, and is made of it: text that every parser reads.

JSON has no NaN and no infinity, Python writes and reads them all the same, and whoever goes on with
such a file either fails or takes them for measurements.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from espalier.errors import InputError

DEEPEST = 64
"""Lists and objects within each other: no file that is read here has a dozen, and whatever walks
through one by calling itself must not run out of calls."""
LONGEST = 300
"""Digits of a whole number: all that a float can hold."""


class NotJson(ValueError):
    """Why a text is no JSON, as a phrase about it: `holds NaN, which JSON does not have`."""


def from_json(text: str | bytes, *, unique: bool = False) -> Any:
    """What a text from anywhere says, in UTF-8.

    Args:
        text: of any length.
        unique: refuse a name that an object has twice; else the last of them counts.

    Raises:
        NotJson: it is no JSON, holds a number that no float can be, or is nested too deeply.
    """
    try:
        plain = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(
            plain,
            parse_constant=_not_json,
            parse_float=_finite,
            parse_int=_not_endless,
            object_pairs_hook=_unique if unique else None,
        )
    except NotJson:
        raise
    except (ValueError, RecursionError):
        raise NotJson("is not JSON") from None
    if _is_deep(value):
        raise NotJson(f"has lists or objects nested more than {DEEPEST} deep")
    return value


def read_json(path: Path, remedy: str = "fetch it again") -> Any:
    """What a file from anywhere says.

    Raises:
        OSError: it cannot be read.
        InputError: it is no JSON, as `from_json` has it; why, and the remedy.
    """
    try:
        return from_json(path.read_bytes())
    except NotJson as error:
        raise InputError(f"{path} {error}; {remedy}.") from None


def _not_json(constant: str) -> None:
    raise NotJson(f"holds {constant}, which JSON does not have")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise NotJson(f"holds {text[:20]}, which no number can be")
    return number


def _not_endless(text: str) -> int:
    if len(text.lstrip("-")) > LONGEST:
        raise NotJson(f"holds {text[:20]}…, which no number can be")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotJson("has a name twice in one object")
    return found


def _is_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        parts = (one.values() if isinstance(one, dict) else one for one in level)
        level = [part for each in parts for part in each if isinstance(part, dict | list)]
    return bool(level)


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
