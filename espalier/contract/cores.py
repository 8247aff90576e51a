"""How many cores a process may use: by its affinity, and by the control groups around it."""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

MEMBERSHIP = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


def usable_cores(membership: Path = MEMBERSHIP, groups: Path = GROUPS) -> int:
    """Cores that this process may use, a part of one counting as one."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _quotas(membership, groups))]))


def slurm_cores(variables: Mapping[str, str] = os.environ) -> int | None:
    """Cores that a task of this Slurm job has on a node; None where this is no job.

    `salloc` gives its shell no cores of the nodes: what the job was given is what counts.
    """
    job = variables.get("SLURM_JOB_CPUS_PER_NODE", "")  # such as 16(x2),8
    count = variables.get("SLURM_CPUS_PER_TASK") or job.partition("(")[0].partition(",")[0]
    return int(count) if count.isdigit() and int(count) else None


def _quotas(membership: Path, groups: Path) -> Iterator[float]:
    """The limits on this process's time, in cores: those of its groups and of all above them."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, inside = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        path = PurePosixPath(inside.lstrip("/"))
        for level in (path, *path.parents):
            # Within a container its own group is at the top, whatever the path says.
            if (quota := _quota(groups / controllers / level)) is not None:
                yield quota


def _quota(group: Path) -> float | None:
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            words = " ".join((group / file).read_text() for file in files).split()
            quota, period = map(int, words)
        except (OSError, ValueError):  # "max" is no limit, and neither is -1
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None
