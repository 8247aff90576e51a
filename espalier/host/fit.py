"""What the machine has and what a process used, in bytes."""

import resource
import shutil
import sys
from pathlib import Path

import psutil

from espalier.contract.stage import Estimate
from espalier.errors import EnvironmentFailure, InputError

UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_size(text: str) -> int:
    """Bytes of `8g`, `512m`, `1.5GiB`.

    Raises:
        InputError: it is not a size.
    """
    number = text.lower().removesuffix("ib").removesuffix("b")
    unit = number[-1:] if number[-1:].isalpha() else ""
    try:
        return int(float(number.removesuffix(unit)) * UNITS[unit])
    except (ValueError, KeyError):
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


def free_memory(limit: int | None) -> int:
    """Memory a stage may take: what is available, or the limit where it is lower."""
    available = int(psutil.virtual_memory().available)
    return min(available, limit) if limit else available


def free_disk(path: Path) -> int:
    """Free bytes where `path` is or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def require_gpu() -> None:
    """Refuse ACCEL=cuda where the machine shows no GPU, before an image is built for it.

    Raises:
        EnvironmentFailure: there is none.
    """
    if not Path("/dev/nvidiactl").exists() and not shutil.which("nvidia-smi"):
        raise EnvironmentFailure(
            "ACCEL=cuda was asked for and no GPU is visible here; use ACCEL=cpu, or a machine "
            "with one."
        )


def check_fits(estimate: Estimate, store: Path, limit: int | None) -> None:
    """Refuse a run that cannot fit.

    Raises:
        EnvironmentFailure: memory or disk is short.
    """
    needs = (
        ("memory", estimate.memory, free_memory(limit)),
        ("disk", estimate.disk, free_disk(store)),
    )
    for what, need, have in needs:
        if need > have:
            raise EnvironmentFailure(
                f"about {show_size(need)} of {what} is needed and {show_size(have)} is at hand; "
                "free some, or try anyway with FORCE=1."
            )
