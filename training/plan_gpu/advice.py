"""Whether a run fits, and what to change where it does not. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from espalier.hardware.gpus import Gpu

USABLE = 0.9
"""Of a GPU's memory: the rest is CUDA's context, NCCL's buffers and what the allocator splits."""
SHARDED = ("weights", "gradients", "optimizer", "masks", "teacher")
"""Parts of the peak that shrink as more GPUs share them."""
ACTIVATIONS = "activations"
"""The part that grows with the micro batch."""


@dataclass(frozen=True)
class Peak:
    """A GPU's fullest moment of a step.

    Attributes:
        recompute: as RECOMPUTE.
        micro_batch: sequences at once.
        parts: bytes by what they hold.
    """

    recompute: bool
    micro_batch: int
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(self.parts.values())

    def fits(self, gpu: Gpu) -> bool:
        return self.total <= USABLE * gpu.bytes

    def largest_micro_batch(self, gpu: Gpu, share: int) -> int:
        """The largest divisor of a GPU's `share` of BATCH that fits; 0: none.

        All activations are taken to grow with it, which the logits, held in pieces, do not: what
        is named here fits, and a little more might.
        """
        left = USABLE * gpu.bytes - (self.total - self.parts[ACTIVATIONS])
        most = int(left * self.micro_batch / self.parts[ACTIVATIONS]) if left > 0 else 0
        sizes = range(1, min(most, share) + 1)
        return max((size for size in sizes if share % size == 0), default=0)

    def gpus_needed(self, gpu: Gpu, world: int) -> int | None:
        """GPUs among which it fits with one sequence at once; None: any number is too few."""
        sharded = sum(self.parts.get(part, 0) for part in SHARDED)
        activations = self.parts[ACTIVATIONS]
        whole = self.total - sharded - activations + activations / self.micro_batch
        left = USABLE * gpu.bytes - whole
        return max(1, -int(-sharded * world // left)) if left > 0 else None


def verdict(peaks: Sequence[Peak], gpu: Gpu, share: int, world: int, replicas: int) -> str:
    """One sentence on the first of the peaks, which was asked for; the others are alternatives."""
    asked, *others = peaks
    if asked.fits(gpu):
        return f"fits: {asked.total / gpu.bytes:.0%} of a GPU's memory."
    changes = [f"RECOMPUTE={int(peak.recompute)}" for peak in others if peak.fits(gpu)]
    for peak in peaks:
        size = peak.largest_micro_batch(gpu, share)
        if 0 < size < peak.micro_batch:
            also = "" if peak is asked else f" with RECOMPUTE={int(peak.recompute)}"
            changes.append(f"MICRO_BATCH={size}{also}")
    if replicas > 1:
        changes.append("REPLICAS=1")
    needed = [n for peak in peaks if (n := peak.gpus_needed(gpu, world)) and n > world]
    if needed and not changes:
        changes.append(f"{min(needed)} GPUs or more, with MICRO_BATCH=1 and RECOMPUTE=1")
    remedies = ", or ".join(changes) or "a shorter SEQLEN, or a GPU of more memory"
    return f"does not fit {USABLE:.0%} of a GPU's {gpu.memory} GiB; give {remedies}."


def record(peak: Peak, gpu: Gpu, share: int) -> dict[str, Any]:
    """A peak as plan.json has it."""
    return {
        "recompute": peak.recompute,
        "micro_batch": peak.micro_batch,
        "peak_bytes": peak.total,
        "parts": peak.parts,
        "fits": peak.fits(gpu),
        "largest_micro_batch": peak.largest_micro_batch(gpu, share),
    }
