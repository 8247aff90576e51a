"""The stage `plan-tpu`: compile the run's step for the TPU, and tell what it needs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Outcome, StageContext
from training.plan_tpu.compiling import compiled
from training.plan_tpu.estimate import estimated
from training.plan_tpu.report import PLAN
from training.plan_tpu.spec import PlanTpuParameters
from training.plan_tpu.topology import absent_chips
from training.plan_tpu.trials import Trial, following, verdict
from training.protocol.planned_budget import NOWHERE, planned_budget
from training.protocol.run import as_stored
from training.tpu_maxtext.data import Records
from training.tpu_maxtext.job import MaxTextRun


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Publish plan.json."""
    assert isinstance(parameters, PlanTpuParameters)  # noqa: S101
    job, tokens = planned_job(parameters, context.inputs.get("data"))
    plan = planned(job, tokens, context.progress.say)
    write_text(context.output / PLAN, to_json(plan, indent=1) + "\n")
    return Outcome()


def planned_job(parameters: PlanTpuParameters, data: Path | None) -> tuple[MaxTextRun, int | None]:
    """The run, and the tokens it is for; None where neither TOKENS nor DATA say.

    Raises:
        InputError: the sizes do not go together.
    """
    budget, tokens = planned_budget(parameters, data)
    job = MaxTextRun(
        parameters=parameters,
        data=NOWHERE,
        config=as_stored(parameters.config),
        checkpoint=None,
        tokenizer=NOWHERE,
        zeros=parameters.zeros,
        found=None,
        budget=budget,
        records=Records(NOWHERE, tokenizer="", vocabulary=0, seqlen=budget.seqlen, rows={}),
    )
    job.micro_batch(parameters.slice.chips)
    return job, tokens


def planned(job: MaxTextRun, tokens: int | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that plan.json holds."""
    parameters = job.parameters
    assert isinstance(parameters, PlanTpuParameters)  # noqa: S101
    tpu = parameters.slice
    memory = tpu.generation.hbm_gib << 30
    share = parameters.batch // tpu.chips
    chips = absent_chips(tpu)
    tried: list[Trial] = []
    wanted: tuple[bool, int] | None = (parameters.recompute, job.micro_batch(tpu.chips))
    while wanted is not None:
        say(f"compiling for {tpu.type}: RECOMPUTE={int(wanted[0])} MICRO_BATCH={wanted[1]}")
        trial = compiled(job, tpu, chips, *wanted)
        say(f"{trial.setting} {'fits' if trial.fits else 'does not fit'}, {trial.seconds:.0f} s")
        tried.append(trial)
        wanted = following(tried, share, memory)
    return {
        "parameters": job.shapes.parameters,
        "masked": job.zeros is not None,
        "tpu": tpu.type,
        "chips": tpu.chips,
        "hosts": tpu.workers,
        "chip_bytes": memory,
        "batch": parameters.batch,
        "seqlen": job.budget.seqlen,
        "tried": [trial.record() for trial in tried],
        "verdict": verdict(tried, memory),
        **estimated(job, tokens, tpu, parameters.mfu),
    }
