"""The TPUs that can be asked for: chips, hosts, memory, speed and list price of each type."""

from dataclasses import dataclass

from espalier.errors import InputError

CHIPS_PER_HOST = 4
"""Of every slice with several hosts."""
PRICED = "2025"
"""Of when the list prices below are, in us regions; the bill may differ."""


@dataclass(frozen=True)
class Generation:
    """One generation of chips.

    Attributes:
        prefix: how its accelerator types begin.
        counted: what a type's number counts on each chip: the chip itself, or its 2 TensorCores.
        sizes: the numbers there are; every multiple of the first of them where `many`.
        alone: the most chips on a host of a slice that has one host.
        hbm_gib, bf16_tflops: of a chip.
        dollars: a chip-hour on demand, list price.
        runtime_version: what its VMs boot.
    """

    name: str
    prefix: str
    counted: int
    sizes: tuple[int, ...]
    many: bool
    alone: int
    hbm_gib: int
    bf16_tflops: int
    dollars: float
    runtime_version: str


_ONE_TO_256 = (1, 4, 8, 16, 32, 64, 128, 256)
GENERATIONS = (
    Generation("v4", "v4", 2, (8, 4096), True, 4, 32, 275, 3.22, "tpu-ubuntu2204-base"),
    Generation("v5e", "v5litepod", 1, _ONE_TO_256, False, 8, 16, 197, 1.20, "v2-alpha-tpuv5-lite"),
    Generation("v5p", "v5p", 2, (8, 12288), True, 4, 95, 459, 4.20, "v2-alpha-tpuv5"),
    Generation("v6e", "v6e", 1, _ONE_TO_256, False, 8, 32, 918, 2.70, "v2-alpha-tpuv6e"),
)


@dataclass(frozen=True)
class Tpu:
    """A slice as `TPU=` names it."""

    type: str
    generation: Generation
    size: int

    @property
    def chips(self) -> int:
        return self.size // self.generation.counted

    @property
    def workers(self) -> int:
        """Hosts, each of which runs the stage's container once."""
        return 1 if self.chips <= self.generation.alone else self.chips // CHIPS_PER_HOST

    @property
    def chips_per_worker(self) -> int:
        return self.chips // self.workers

    @property
    def topology(self) -> str:
        """What MaxText and XLA call it when they compile ahead of time."""
        return f"{self.generation.name}-{self.size}"

    @property
    def dollars_per_hour(self) -> float:
        """All its chips on demand, at list price."""
        return self.chips * self.generation.dollars


def tpu_named(text: str) -> Tpu:
    """The slice of an accelerator type.

    Raises:
        InputError: there is no such type.
    """
    prefix, _, number = text.partition("-")
    for generation in GENERATIONS:
        if prefix == generation.prefix and number.isascii() and number.isdigit():
            size, sizes = int(number), generation.sizes
            regular = size % sizes[0] == 0 and sizes[0] <= size <= sizes[-1]
            if size in sizes or (generation.many and regular):
                return Tpu(text, generation, size)
    known = ", ".join(_sizes(generation) for generation in GENERATIONS)
    raise InputError(f"TPU={text} is not known; choose one of {known}.")


def _sizes(generation: Generation) -> str:
    first, *_, last = generation.sizes
    if generation.many:
        return f"{generation.prefix}-{first} to -{last} in steps of {first}"
    return f"{generation.prefix}-" + "|".join(map(str, generation.sizes))
