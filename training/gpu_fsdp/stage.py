"""The stage `train-gpu`: check the inputs, run the ranks, tell what came out."""

from pathlib import Path
from typing import Any

from espalier.device import require_device
from espalier.errors import Interrupted
from espalier.manifest import METRICS, published_name
from espalier.parameters import Parameters
from espalier.processes import Processes
from espalier.stage import Outcome, StageContext
from espalier.token_data.reader import TokenData
from training.gpu_fsdp.budget import forward_flops, training_flops
from training.gpu_fsdp.export import sparsity_of
from training.gpu_fsdp.job import Job
from training.gpu_fsdp.launch import train
from training.gpu_fsdp.plots import draw_losses
from training.gpu_fsdp.sparsity import pruning_of
from training.gpu_fsdp.spec import TrainingParameters
from training.gpu_fsdp.trainer import Place

BEST = "best"


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Train, and publish the last weights; the best ones beside them where they are others."""
    assert isinstance(parameters, TrainingParameters)  # noqa: S101
    require_device(context.device)
    job = Job.of(parameters, context.inputs)
    title = context.output.name.partition(".partial")[0]
    place = Place(context.scratch, context.output)
    processes = Processes.from_environment()
    found = train(job, place, context.device, title, processes)
    best = found["best"]
    if best and best[0] < job.budget.steps:
        place.best.rename(context.output / BEST)
    draw_losses(context.output / METRICS, title, context.output / "loss")
    return Outcome(
        pruning=_pruning(job, context.output),
        training=account(job, found, processes),
        data=data_of(job),
        checks={"validation_loss": found["valid"][-1][1] if found["valid"] else None},
        notes={
            "peak_bytes_a_process": found["peak_bytes"],
            "tokens_per_second": round(found["tokens_per_second"]),
            "data_share": round(found["data_share"], 5),
            "processes": processes.world,
            "micro_batch": job.micro_batch(processes.world),
        },
    )


def join(context: StageContext, parameters: Parameters) -> None:
    """Run this machine's ranks; the first machine tells what came out."""
    assert isinstance(parameters, TrainingParameters)  # noqa: S101
    require_device(context.device)
    job = Job.of(parameters, context.inputs)
    place = Place(context.scratch, context.output)
    try:
        train(job, place, context.device, context.output.name, Processes.from_environment())
    except FileNotFoundError:  # the first machine has told and tidied already
        raise Interrupted("the first machine has ended.") from None


def account(job: Job, found: dict[str, Any], processes: Processes) -> dict[str, Any]:
    """The manifest's section `training`."""
    budget, shapes = job.budget, job.shapes
    flops = training_flops(shapes, budget.seqlen)
    teacher = None
    if job.teacher is not None:
        flops += forward_flops(job.teacher_shapes, budget.seqlen)
        teacher = published_name(job.teacher, job.teacher.name)
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
        "last_loss": found["last_loss"],
        "validations": found["valid"],
        "best": {"step": best[0], "loss": best[1]} if best else None,
    }


def data_of(job: Job) -> dict[str, Any]:
    """The manifest's section `data`."""
    index = TokenData(job.data).index
    return {
        "name": published_name(job.data, job.data.name),
        "tokenizer": index.tokenizer,
        "train_tokens": index.splits["train"].tokens,
        "tokens_seen": job.budget.tokens,
    }


def _pruning(job: Job, output: Path) -> dict[str, Any] | None:
    """The parent's account of its pruning, as it holds for the trained weights."""
    before = None if job.checkpoint is None else pruning_of(job.checkpoint)
    if before is None:
        return None
    if "pattern" not in before:
        return before
    if not job.masked:
        return None  # dense again
    return {**before, "policy": "preserve", "achieved": sparsity_of(output)}
