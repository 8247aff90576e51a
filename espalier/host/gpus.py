"""Which of a machine's GPUs a stage takes: those that the caller names, else free ones.

A stage that takes all GPUs takes those of others. What is free is asked of nvidia-smi: no process
computes there and little of the memory is in use. Two commands that begin at once see the same
GPUs free, so each holds a lock on those that it takes.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from espalier.errors import EnvironmentFailure

VISIBLE = "CUDA_VISIBLE_DEVICES"
ANSWER_SECONDS = 20
IDLE_SHARE = 0.05
"""Of a GPU's memory that may be in use, by a screen or the driver, where it counts as free."""
ENDS_LIST = ("-1", "NoDevFiles")
"""Entries of CUDA_VISIBLE_DEVICES with which it ends, as CUDA reads it."""
_GPU = re.compile(r"GPU (?P<index>\d+): .*\(UUID: (?P<uuid>\S+)\)")
_MIG = re.compile(r"\s+MIG .*Device +(?P<index>\d+): \(UUID: (?P<uuid>\S+)\)")


@dataclass(frozen=True)
class Gpu:
    """A GPU or a part of one (MIG).

    Attributes:
        index: as nvidia-smi counts; `0:1` is the second part of the first one.
        uuid: `GPU-…` or `MIG-…`; what the caller wrote, where nvidia-smi does not know it.
        used: the part of its memory that is in use; None: nvidia-smi does not say.
        busy: whether a process computes on it.
    """

    index: str
    uuid: str
    used: float | None = None
    busy: bool = False

    @property
    def free(self) -> bool:
        return not self.busy and (self.used or 0.0) <= IDLE_SHARE

    def __str__(self) -> str:
        state = "free" if self.free else "in use"
        return f"{self.index} ({state})"


def gpus_of_machine() -> list[Gpu]:
    """All GPUs, or parts of them where they are divided; none where nvidia-smi does not say."""
    found: list[Gpu] = []
    whole = ""
    usage, busy = _memory(), _computing()
    for line in _asked("-L"):
        if match := _GPU.match(line):
            whole, uuid = match["index"], match["uuid"]
            found.append(Gpu(whole, uuid, usage.get(uuid), uuid in busy))
        elif match := _MIG.match(line):
            found = [gpu for gpu in found if gpu.index != whole]  # only its parts can be used
            index = f"{whole}:{match['index']}"
            found.append(Gpu(index, match["uuid"], None, match["uuid"] in busy))
    return found


def named(machine: list[Gpu], variables: Mapping[str, str] = os.environ) -> list[Gpu] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES names, by index or (the beginning of) a UUID.

    None where it is not set. What nvidia-smi does not know is passed on as it is written.
    """
    text = variables.get(VISIBLE)
    if text is None:
        return None
    found: list[Gpu] = []
    for word in map(str.strip, text.split(",")):
        if not word or word in ENDS_LIST:
            break
        known = [gpu for gpu in machine if word == gpu.index or _begins(gpu.uuid, word)]
        found.append(known[0] if len(known) == 1 else Gpu(word, word))
    return found


@contextmanager
def taken(count: int, variables: Mapping[str, str] = os.environ) -> Iterator[list[Gpu] | None]:
    """Hold `count` GPUs for as long as the context lasts; None: what there is cannot be told.

    Free ones come first. Where too few are, it is said which others are taken.

    Raises:
        EnvironmentFailure: fewer are there, or are named.
    """
    machine = gpus_of_machine()
    asked = named(machine, variables)
    if asked is None and not machine:
        yield None
        return
    candidates = machine if asked is None else asked
    if len(candidates) < count:
        visible = None if asked is None else variables[VISIBLE]
        raise EnvironmentFailure(_too_few(len(candidates), count, visible))
    with ExitStack() as locks:
        chosen = _choose(candidates, count, locks)
        occupied = [gpu for gpu in chosen if not gpu.free]
        if occupied and len(candidates) > count:
            _say(
                f"too few GPUs are free; taking {', '.join(gpu.index for gpu in occupied)}, which "
                f"others use. {VISIBLE} names which to take."
            )
        yield chosen


def _begins(uuid: str, word: str) -> bool:
    """Whether a UUID is meant, which CUDA takes shortened too."""
    return word.startswith(("GPU-", "MIG-")) and uuid.startswith(word)


def visible(gpus: Sequence[Gpu]) -> dict[str, str]:
    """The variables with which CUDA shows a process these alone; indices are nvidia-smi's."""
    return {VISIBLE: ",".join(gpu.uuid for gpu in gpus), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _choose(candidates: list[Gpu], count: int, locks: ExitStack) -> list[Gpu]:
    """The freest that no other command of ours has taken; those too, where no others are left."""
    if len(candidates) == count:
        return candidates  # as they are named, in that order
    freest = sorted(candidates, key=lambda gpu: (not gpu.free, gpu.used or 0.0))
    chosen: list[Gpu] = []
    for gpu in freest:
        if len(chosen) < count and _lock(gpu, locks):
            chosen.append(gpu)
    chosen += [gpu for gpu in freest if gpu not in chosen][: count - len(chosen)]
    return [gpu for gpu in candidates if gpu in chosen]


def _lock(gpu: Gpu, locks: ExitStack) -> bool:
    folder = Path(tempfile.gettempdir()) / f"espalier-gpus-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        locks.enter_context(FileLock(folder / f"{gpu.uuid.replace('/', '-')}.lock").acquire(0))
    except Timeout:
        return False
    except OSError:
        return True  # no place for locks: as free as nvidia-smi says
    return True


def _too_few(there: int, count: int, visible: str | None) -> str:
    if visible is not None and not there:
        return f"{VISIBLE}={visible} hides every GPU; unset it, or use ACCEL=cpu."
    where = "this machine has" if visible is None else f"{VISIBLE}={visible} names"
    fewer = f"give GPUS={there}" + (f", or name more in {VISIBLE}" if visible is not None else "")
    return f"GPUS={count} were asked for, and {where} {there}; {fewer}."


def _memory() -> dict[str, float]:
    """The part of each GPU's memory that is in use, by UUID."""
    found = {}
    query = "--query-gpu=uuid,memory.used,memory.total"
    for line in _asked(query, "--format=csv,noheader,nounits"):
        words = [word.strip() for word in line.split(",")]
        try:
            found[words[0]] = float(words[1]) / float(words[2])
        except (IndexError, ValueError, ZeroDivisionError):
            continue  # [N/A], where memory is the machine's own
    return found


def _computing() -> set[str]:
    """The UUIDs of GPUs that processes compute on."""
    return set(map(str.strip, _asked("--query-compute-apps=gpu_uuid", "--format=csv,noheader")))


def _asked(*words: str) -> list[str]:
    try:
        done = subprocess.run(
            ["nvidia-smi", *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
