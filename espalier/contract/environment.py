"""What a stage computed with: packages, processor, threads; recorded, not part of its identity."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

from espalier.contract.image import packages_of
from espalier.contract.threads import stated_threads

AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
CPUINFO = Path("/proc/cpuinfo")


def describe_environment(runtime: str, device: str, image: str) -> dict[str, Any]:
    """The manifest's section; threads and vectors decide the last bits of sums."""
    return {
        "runtime": runtime,
        "device": device,
        "python": platform.python_version(),
        "packages": packages_of(image),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": stated_threads(),
        "processor": processor_name(CPUINFO),
        "vector": vector_extension(CPUINFO),
    }


def processor_name(cpuinfo: Path) -> str:
    """The processor's model, as it names itself."""
    fields = _cpuinfo(cpuinfo)
    named = fields.get("model name") or " ".join(
        f"{key} {fields[key]}" for key in ("CPU implementer", "CPU part") if key in fields
    )
    return named or platform.processor() or platform.machine()


def vector_extension(cpuinfo: Path) -> str:
    """What vectors are computed with: as torch has chosen, or as the processor has them.

    One of AVX512, AVX2, NEON, SVE256, DEFAULT and the like.
    """
    fields = _cpuinfo(cpuinfo)
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    if torch := sys.modules.get("torch"):  # worth no import: a stage without it computes without it
        chosen = str(torch.backends.cpu.get_cpu_capability())
        return "NEON" if chosen == "DEFAULT" and "asimd" in flags else chosen
    if flags >= AVX512:
        return "AVX512"
    if "avx2" in flags:
        return "AVX2"
    return "NEON" if "asimd" in flags or platform.machine() == "arm64" else "DEFAULT"


def _cpuinfo(path: Path) -> dict[str, str]:
    """What is said of the first processor."""
    try:
        first = path.read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
