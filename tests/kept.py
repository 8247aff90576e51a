"""What tests make once, for all that come after: kept with the clone, or in the cache of CI."""

import hashlib
import os
from pathlib import Path

from espalier.contract.paths import ROOT

CACHE = "ESPALIER_CI_CACHE"


def kept(name: str, *decided_by: str) -> Path:
    """A folder that every run with the same `decided_by`, on such a processor, finds again.

    Other processes use it at the same time.
    """
    place = Path(os.environ.get(CACHE, ROOT / ".espalier")) / "tests"
    key = hashlib.sha256("\0".join([*decided_by, processor()]).encode()).hexdigest()[:12]
    folder = place / f"{name}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def processor() -> str:
    """Its kind and what it can do; sums differ in their bits from one to another."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    told = (line for line in lines if line.startswith(("model name", "flags", "Features")))
    return "\n".join(sorted(set(told)))
