"""What a seed draws: commands, and the faults that strike each. One draw needs no other."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.soak.faults import FAULTS, Fault
from tests.soak.kinds import KINDS, Command
from tests.soak.tpu_faults import TPU_FAULTS, TpuFault

TPUS = 0.06
"""How often the command runs on a TPU VM."""
SECOND = 0.3
"""How often the command that is given again is struck too."""


@dataclass(frozen=True)
class Draw:
    """A command under a name of its own, and its faults, one at a time.

    Attributes:
        random: for all that is left open, as the moments of the faults.
    """

    index: int
    command: Command
    faults: tuple[Fault, ...]
    random: random.Random

    @property
    def name(self) -> str:
        return f"d{self.index:03d}"

    @property
    def alone(self) -> bool:
        """Whether no other command may run meanwhile."""
        return any(fault.alone for fault in self.faults)

    def __str__(self) -> str:
        struck = ", then ".join(fault.name for fault in self.faults)
        return f"{self.command.kind.name}: {struck}"


@dataclass(frozen=True)
class TpuDraw:
    """A run on a TPU VM, and its fault."""

    index: int
    fault: TpuFault
    random: random.Random
    alone: bool = False

    @property
    def name(self) -> str:
        return f"d{self.index:03d}"

    def __str__(self) -> str:
        return self.fault.name


def drawn(seed: int, index: int, disk: bool) -> Draw | TpuDraw:
    """The draw of that seed and number, on a store with or without a disk that can be filled."""
    draw = random.Random(f"{seed}-{index}")
    if draw.random() < TPUS:
        return TpuDraw(index, draw.choice(list(TPU_FAULTS.values())), draw)
    kinds = list(KINDS.values())
    (kind,) = draw.choices(kinds, [kind.weight for kind in kinds])
    faults = [fault for fault in FAULTS.values() if disk or not fault.wants_disk]
    faults = [fault for fault in faults if kind.other or not fault.wants_rival]
    faults = [fault for fault in faults if set(fault.roles) & set(kind.roles)]
    count = 1 + (draw.random() < SECOND)
    chosen = draw.choices(faults, [fault.weight for fault in faults], k=count)
    return Draw(index, kind.command(draw), tuple(chosen), draw)


def chosen(index: int, kind: str, fault: str) -> Draw | TpuDraw:
    """A draw by its names; one of TPUs has its kind by its fault."""
    draw = random.Random(index)
    if fault in TPU_FAULTS:
        return TpuDraw(index, TPU_FAULTS[fault], draw)
    return Draw(index, KINDS[kind].command(draw), (FAULTS[fault],), draw)


def all_of(seed: int, count: int, disk: bool) -> Sequence[Draw | TpuDraw]:
    """The first so many draws of a seed."""
    return [drawn(seed, index, disk) for index in range(count)]
