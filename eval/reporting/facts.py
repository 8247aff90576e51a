"""What a report says of a checkpoint itself, from its manifest and those that it comes from."""

from dataclasses import dataclass
from typing import Self

from espalier.contract.ledger import Total
from espalier.contract.manifest import Manifest
from espalier.contract.pruned import Masked
from eval.reporting.collected import Checkpoint

ARROW = " \N{RIGHTWARDS ARROW} "


@dataclass(frozen=True)
class Facts:
    """What is known; None where nothing says it.

    Attributes:
        made: `smollm2-135m → wanda 0.5 → train-gpu`.
        method: the stage that pruned it last; that which made it, where none did.
        total: parameters, padding aside.
        nonzero: those that are not zero.
        sparsity: fraction that is zero of what is stored.
        removed: fraction of the first model's parameters that is gone or zero.
        tokens: trained on, along the whole lineage.
        flops: of training and pruning, along the whole lineage.
        latency: milliseconds of a forward pass, where one was measured.
        timed_tokens: of that pass.
    """

    made: str
    method: str
    total: int | None
    nonzero: int | None
    sparsity: float | None
    removed: float | None
    tokens: int | None
    flops: float | None
    latency: float | None
    timed_tokens: int | None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        manifest = checkpoint.manifest
        total, nonzero = counts(manifest)
        root, _ = counts(checkpoint.root)
        cost = Total.of(manifest.ledger) if manifest.ledger else Total(tokens=None, flops=None)
        milliseconds = manifest.notes.get("milliseconds")
        times = milliseconds if isinstance(milliseconds, dict) else {}
        known, pruned = bool(total and nonzero is not None), len(checkpoint.models) > 1
        return cls(
            made=ARROW.join(map(_step, checkpoint.models)),
            method=method_of(checkpoint),
            total=total,
            nonzero=nonzero,
            sparsity=1 - nonzero / total if known and nonzero is not None and total else None,
            removed=1 - nonzero / root if pruned and nonzero is not None and root else None,
            tokens=cost.tokens,
            flops=cost.flops,
            latency=times.get("compact"),
            timed_tokens=manifest.notes.get("timed_tokens") if times else None,
        )


def counts(manifest: Manifest) -> tuple[int | None, int | None]:
    """Parameters, padding aside, and those that are not zero."""
    model = manifest.model or {}
    if "parameters" not in model:
        return None, None
    total = int(model["parameters"]) - int(model.get("padding", 0))
    return total, int(model.get("nonzero", total))


def method_of(checkpoint: Checkpoint) -> str:
    """What pruned it, or what else made it."""
    pruning = [each.stage for each in checkpoint.models if each.verb == "prune"]
    return pruning[-1] if pruning else checkpoint.manifest.stage


def _step(manifest: Manifest) -> str:
    """A model of a lineage: a first one by its name, others by what was done."""
    if not any(role in manifest.inputs for role in ("model", "maxtext", "composer", "compact")):
        return manifest.name
    pruned = manifest.pruning
    if manifest.verb != "prune" or pruned is None:
        return manifest.stage
    pattern = f" {pruned.pattern}" if isinstance(pruned, Masked) else ""
    return f"{manifest.stage}{pattern} {pruned.achieved:.0%}"
