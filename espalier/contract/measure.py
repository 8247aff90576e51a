"""Sizes and times in words, and what a process used."""

import resource
import sys

from espalier.errors import InputError

MOST = 2**60
"""Bytes: more than any machine has."""
UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_size(text: str) -> int:
    """Bytes of `8g`, `512m`, `1.5GiB`.

    Raises:
        InputError: it is not a size.
    """
    number = text.lower().removesuffix("ib").removesuffix("b")
    unit = number[-1:] if number[-1:].isalpha() else ""
    try:
        size = float(number.removesuffix(unit)) * UNITS[unit]
        if not 1 <= size < MOST:
            raise ValueError
        return int(size)
    except (ValueError, KeyError, OverflowError):  # nan, inf
        raise InputError(f"MEMORY={text} is not a size; give for example 8g.") from None


def show_size(size: float) -> str:
    """A size as a person reads it."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def show_time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def peak_memory() -> int:
    """Peak resident memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
