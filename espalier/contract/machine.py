"""Failures of the machine, whatever library raises them: memory or the disk has run out."""

import errno
import os
import re
from collections.abc import Iterator

from espalier.errors import EnvironmentFailure

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (*FULL_DISK, errno.EROFS, errno.EFBIG, errno.EIO, errno.ESTALE)
MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|bad_alloc|alloc_failed"
    r"|resource_exhausted"
)
FULL = re.compile("|".join(re.escape(os.strerror(number)) for number in FULL_DISK))
"""What libraries in other languages say that pass on no number."""


def failure_of_the_machine(
    error: BaseException, remedy: str = "lower BATCH or SAMPLES, or free some"
) -> EnvironmentFailure | None:
    """What it means for the user; None: it is no such failure.

    Args:
        error: with all that it came of.
        remedy: where memory has run out.
    """
    for cause in _causes(error):
        if isinstance(cause, EnvironmentFailure):
            return cause
        if isinstance(cause, OSError) and cause.errno in UNWRITABLE:
            return _unwritable(os.strerror(cause.errno), full=cause.errno in FULL_DISK)
        text = str(cause)
        if isinstance(cause, OSError | RuntimeError | ValueError) and (full := FULL.search(text)):
            return _unwritable(full[0], full=True)
        if isinstance(cause, MemoryError) or (
            isinstance(cause, OSError | RuntimeError) and MEMORY.search(text.lower())
        ):
            return EnvironmentFailure(f"memory ran out; {remedy}.")
    return None


def _unwritable(why: str, *, full: bool) -> EnvironmentFailure:
    remedy = "free the space" if full else "see to the disk"
    return EnvironmentFailure(
        f"the store cannot be written: {why}; {remedy} or choose another store."
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised for, and those that torch's checkpoints bring of each rank."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        ranks = getattr(one, "failures", None)
        brought = [pair[0] for pair in ranks.values()] if isinstance(ranks, dict) else []
        waiting += [one.__cause__, None if one.__suppress_context__ else one.__context__]
        waiting += [each for each in brought if isinstance(each, BaseException)]
