"""What a manifest says of a training run."""

from typing import Any

from espalier.manifest import published_name
from espalier.token_data.reader import TokenData
from training.gpu_fsdp.job import Job
from training.protocol.budget import run_flops


def training_section(job: Job, found: dict[str, Any]) -> dict[str, Any]:
    """The manifest's section `training`."""
    budget, shapes = job.budget, job.shapes
    flops = run_flops(shapes, job.teacher_shapes, budget.seqlen)
    teacher = None if job.teacher is None else published_name(job.teacher, job.teacher.name)
    best = found["best"]
    return {
        "init": job.parameters.init,
        "policy": job.parameters.policy if job.masked else None,
        "precision": job.precision,
        "teacher": teacher,
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


def data_section(job: Job) -> dict[str, Any]:
    """The manifest's section `data`."""
    index = TokenData(job.data).index
    return {
        "name": published_name(job.data, job.data.name),
        "tokenizer": index.tokenizer,
        "train_tokens": index.splits["train"].tokens,
        "tokens_seen": job.budget.tokens,
    }
