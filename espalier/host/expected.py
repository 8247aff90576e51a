"""What carrying out a plan is expected to take: time, memory and disk, step by step and in sum."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from espalier.contract.measure import show_size, show_time
from espalier.contract.stage import Estimate
from espalier.errors import InputError
from espalier.hardware.gpus import GPUS
from espalier.host.fit import Fit, free_disk, free_memory
from espalier.host.identity import is_there
from espalier.host.plan import Plan
from espalier.host.resolution import device_of
from espalier.host.settings import Settings

USUAL_GPU = "h100"
UTILISATION = 0.3
"""Of a GPU's peak, in products of the sizes that pruning and evaluating have."""
TWO_CORES = 80e9
"""FLOP/s of products on two cores, by which estimates count."""


@dataclass(frozen=True)
class Expected:
    """Of some stages together.

    Attributes:
        stages: how many are to run.
        unknown: those of them of which nothing is known.
        memory: at the peak, in bytes.
        disk: in bytes, all together.
    """

    stages: int = 0
    unknown: tuple[str, ...] = ()
    seconds: float = 0.0
    memory: int = 0
    disk: int = 0

    @classmethod
    def of(cls, stage: str, estimate: Estimate | None, faster: float) -> "Expected":
        """One stage, whose products are `faster` times as fast as on two cores."""
        if estimate is None:
            return cls(1, (stage,))
        seconds = estimate.seconds - estimate.products * (1 - 1 / faster)
        return cls(1, (), seconds, estimate.memory, estimate.disk)

    @classmethod
    def of_all(cls, every: Iterable["Expected"]) -> "Expected":
        """Of all these, one after another."""
        total = cls()
        for each in every:
            total = cls(
                total.stages + each.stages,
                tuple(dict.fromkeys((*total.unknown, *each.unknown))),
                total.seconds + each.seconds,
                max(total.memory, each.memory),
                total.disk + each.disk,
            )
        return total

    @property
    def cells(self) -> tuple[str, ...]:
        """Stages, time, memory, disk in words."""
        times = [show_time(self.seconds)] if self.seconds else []
        sizes = [show_size(size) if size else "-" for size in (self.memory, self.disk)]
        return str(self.stages), " + ".join([*times, *self.unknown]) or "-", *sizes


def expected(plan: Plan, settings: Settings, gpu: str = USUAL_GPU) -> dict[str, Expected]:
    """By the titles of the plan's steps; what is there already takes nothing.

    Args:
        plan: what is to be made.
        settings: which device it is made on.
        gpu: the kind of GPU that ACCEL=cuda has, of those that the data sheets list.

    Raises:
        InputError: there is no such kind.
    """
    if gpu not in GPUS:
        raise InputError(f"GPU={gpu} is not known; give one of {', '.join(GPUS)}.")
    on_gpu = GPUS[gpu].flops("bf16") * UTILISATION / TWO_CORES
    seen: set[Path] = set()
    found = {}
    for step in plan.steps:
        stages = []
        for target in plan.order(step.outputs):
            if target in seen or is_there(target, plan.renew_before(target)):
                continue
            seen.add(target)
            request = plan.requests[target]
            fit = Fit.of(request.stage, request.parameters, request.inputs, request.shape)
            faster = on_gpu if device_of(request.stage, settings) == "cuda" else 1.0
            stages.append(Expected.of(request.stage.name, fit.estimate, faster))
        found[step.title] = Expected.of_all(stages)
    return found


def expectation(plan: Plan, settings: Settings, gpu: str = USUAL_GPU) -> Table:
    """The same as a table, with what this machine has.

    Raises:
        InputError: there is no such kind of GPU.
    """
    steps = expected(plan, settings, gpu)
    total = Expected.of_all(steps.values())
    where = "on two cores"
    if settings.accel == "cuda":
        where = f"on one {gpu} at {UTILISATION:.0%} of its peak, and two cores"
    free = (free_memory(settings.memory), free_disk(settings.store.absolute()))
    table = Table(
        title=f"Expected, of what is not there yet, {where}",
        caption=f"available here: {show_size(free[0])} of memory, {show_size(free[1])} of disk",
        caption_justify="left",
    )
    for heading in ("step", "stages", "time", "memory at the peak", "disk"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for title, each in steps.items():
        table.add_row(title, *each.cells)
    table.add_section()
    table.add_row("in all", *total.cells)
    return table
