"""The stage `plan-gpu`: rehearse the run with and without RECOMPUTE, and tell what it needs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Outcome, StageContext
from espalier.hardware.gpus import GPUS
from espalier.models.flops import run_flops
from espalier.models.shapes import Shapes
from training.gpu_fsdp.job import FsdpRun, check_distillation
from training.plan_gpu.advice import Peak, record, verdict
from training.plan_gpu.memory import Rehearsal, pretended_ranks
from training.plan_gpu.report import PLAN
from training.plan_gpu.spec import PlanParameters
from training.protocol.planned_budget import NOWHERE, planned_budget
from training.protocol.run import as_stored


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Publish plan.json."""
    assert isinstance(parameters, PlanParameters)  # noqa: S101
    job, tokens = planned_job(parameters, context.inputs.get("data"))
    plan = planned(job, tokens, context.progress.say)
    write_text(context.output / PLAN, to_json(plan, indent=1) + "\n")
    return Outcome()


def planned_job(parameters: PlanParameters, data: Path | None) -> tuple[FsdpRun, int | None]:
    """The run, and the tokens it is for; None where neither TOKENS nor DATA say.

    Raises:
        InputError: the sizes do not go together.
    """
    budget, tokens = planned_budget(parameters, data)
    teacher = parameters.teacher_config
    if teacher is not None:
        shapes = Shapes.of(parameters.config)
        check_distillation(parameters, Shapes.of(teacher), shapes, budget.seqlen)
    job = FsdpRun(
        parameters=parameters,
        data=data or NOWHERE,
        config=as_stored(parameters.config),
        checkpoint=None,
        tokenizer=NOWHERE,
        teacher=None if teacher is None else NOWHERE,
        zeros=parameters.zeros,
        found=None,
        budget=budget,
    )
    return job, tokens


def planned(job: FsdpRun, tokens: int | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that plan.json holds."""
    parameters = job.parameters
    assert isinstance(parameters, PlanParameters)  # noqa: S101
    gpu, world = GPUS[parameters.gpu], parameters.world
    micro_batch = job.micro_batch(world)
    share = parameters.batch // world
    peaks: list[Peak] = []
    with pretended_ranks(world):
        for recompute in (parameters.recompute, not parameters.recompute):
            say(f"one step without data, RECOMPUTE={int(recompute)}")
            rehearsal = Rehearsal(job, parameters.teacher_config, world, recompute)
            peaks.append(rehearsal.peak(micro_batch))
    teacher = parameters.teacher_config
    shapes = None if teacher is None else Shapes.of(teacher)
    flops = run_flops(job.shapes, shapes, job.budget.seqlen)
    speed = parameters.mfu * gpu.flops(job.precision) * world / flops
    hours = None if tokens is None else tokens / speed / 3600
    return {
        "parameters": job.shapes.parameters,
        "gpu": parameters.gpu,
        "gpu_bytes": gpu.bytes,
        "gpus": world,
        "replicas": parameters.replicas,
        "precision": job.precision,
        "batch": parameters.batch,
        "seqlen": job.budget.seqlen,
        "peaks": [record(peak, gpu, share) for peak in peaks],
        "verdict": verdict(peaks, gpu, share, world, parameters.replicas),
        "mfu": parameters.mfu,
        "flops_per_token": flops,
        "tokens_per_second": speed,
        "tokens": tokens,
        "steps": job.budget.steps if tokens is not None else None,
        "hours": hours,
        "gpu_hours": None if hours is None else hours * world,
    }
