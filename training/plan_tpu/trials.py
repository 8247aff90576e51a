"""What was compiled, what to compile next, and what to advise. Needs no JAX."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

USABLE = 0.96
"""Of a chip's memory: libtpu leaves a program 30.75 of a v4's 32 GiB, and 15.75 of a v5e's 16."""
MOST = 3
"""Programs that a plan compiles: each takes minutes."""
LEAST = (True, 1)
"""RECOMPUTE and MICRO_BATCH of the least memory."""


@dataclass(frozen=True)
class Trial:
    """One compilation.

    Attributes:
        recompute, micro_batch: as RECOMPUTE and MICRO_BATCH.
        state: bytes of a chip's part of weights, optimizer and masks.
        total: bytes a chip needs in all, as XLA says; at least these, where it refused.
        seconds: it took.
        flops: XLA's count, a chip and step, in which every loop's body counts once.
    """

    recompute: bool
    micro_batch: int
    fits: bool
    state: int
    total: int
    seconds: float
    flops: float | None = None

    @property
    def setting(self) -> str:
        """As it is asked for."""
        return f"MICRO_BATCH={self.micro_batch} RECOMPUTE={int(self.recompute)}"

    def predicted(self, micro_batch: int) -> float:
        """Bytes with another MICRO_BATCH, if all but the state grew with it."""
        return self.state + (self.total - self.state) * micro_batch / self.micro_batch

    def record(self) -> dict[str, Any]:
        """As plan.json has it."""
        return vars(self)


def following(tried: Sequence[Trial], share: int, memory: int) -> tuple[bool, int] | None:
    """RECOMPUTE and MICRO_BATCH to compile after these; None: enough is known.

    What was asked for comes first. If it fits, the largest micro batch that should fit is tried
    once. If not, a smaller one is, or recomputing, and in the end both at their least.

    Args:
        tried: what was compiled so far.
        share: sequences that a chip has of BATCH, which micro batches divide.
        memory: of a chip, of which a part is usable, in bytes.
    """
    asked, last = tried[0], tried[-1]
    sizes = [size for size in range(1, share + 1) if share % size == 0]
    likely = [size for size in sizes if asked.predicted(size) <= USABLE * memory]
    if asked.fits:
        best = max(likely, default=0)
        return (asked.recompute, best) if best > asked.micro_batch and len(tried) == 1 else None
    if last.fits or (last.recompute, last.micro_batch) == LEAST:
        return None
    if len(tried) == MOST - 1:
        return LEAST
    smaller = max((size for size in likely if size < asked.micro_batch), default=0)
    if smaller:
        return asked.recompute, smaller
    return LEAST if asked.recompute else (True, asked.micro_batch)


def verdict(tried: Sequence[Trial], memory: int) -> str:
    """One sentence on the first, which was asked for; the others are alternatives."""
    asked, last = tried[0], tried[-1]
    if asked.fits:
        return f"fits: {asked.total / memory:.0%} of a chip's memory."
    usable = USABLE * memory
    wants = f"{asked.total / 2**30:.2f} GiB" if asked.total > usable else "more"
    outcome = (
        f"does not fit: {asked.setting} wants {wants} of {usable / 2**30:.2f} usable GiB a chip"
    )
    if last.fits:
        return f"{outcome}; {last.setting} fits."
    also = "" if last is asked else f"; neither does {last.setting} fit"
    return f"{outcome}{also}; give a larger TPU, or a shorter SEQLEN."
