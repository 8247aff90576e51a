"""What a manifest says of a training run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from espalier.contract.manifest import pruning_of, published_name
from espalier.contract.pruned import Masked, Pruned
from training.protocol.run import Run


def training_section(
    run: Run, found: dict[str, Any], teacher: Path | None = None
) -> dict[str, Any]:
    """The manifest's section `training`."""
    budget = run.budget
    flops, best = run.flops_per_token, found["best"]
    return {
        "init": "random" if run.parameters.fresh else "checkpoint",
        "policy": "preserve" if run.zeros else None,
        "precision": run.precision,
        "teacher": None if teacher is None else published_name(teacher, teacher.name),
        "nominal_tokens": budget.nominal,
        "tokens": budget.tokens,
        "steps": budget.steps,
        "step_tokens": budget.step_tokens,
        "seqlen": budget.seqlen,
        "epochs": round(budget.epochs, 4),
        "flops_per_token": flops,
        "flops": flops * budget.tokens,
        "last_loss": found["loss"],
        "validations": found["valid"],
        "best": {"step": best[0], "loss": best[1]} if best else None,
    }


def pruning_section(run: Run, achieved: Callable[[], float]) -> Pruned | None:
    """What was pruned of the parent, as it holds for weights of `achieved` sparsity."""
    before = None if run.checkpoint is None else pruning_of(run.checkpoint)
    if before is None and run.zeros is not None and run.found is not None:
        kept = achieved()
        return run.found.masked().model_copy(update={"target": kept, "achieved": kept})
    if not isinstance(before, Masked):
        return before  # of padding every zero is kept
    if run.zeros is None:
        return None  # dense again
    return before.model_copy(update={"achieved": achieved()})


def data_section(run: Run, tokenizer: str, train_tokens: int) -> dict[str, Any]:
    """The manifest's section `data`."""
    return {
        "name": published_name(run.data, run.data.name),
        "tokenizer": tokenizer,
        "train_tokens": train_tokens,
        "tokens_seen": run.budget.tokens,
    }
