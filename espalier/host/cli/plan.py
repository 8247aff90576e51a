"""Commands that tell what a training run needs, before any of it is there."""

import json
from pathlib import Path

import typer

from espalier.contract.discovery import stage_named
from espalier.errors import InputError
from espalier.host.cli.session import Assignments, Session, report
from espalier.host.commands.planning import PlanningCommand, alone
from espalier.host.commands.training import TrainingCommand
from espalier.host.runtimes.tpu_vm.runtime import TpuVmRuntime


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("plan-gpu")(plan_gpu)
    app.command("plan-tpu")(plan_tpu)


def plan_gpu(assignments: Assignments = None) -> None:
    """Say what memory and time the same command with train-gpu needs, on GPUS x NODES of GPU."""
    _plan("plan-gpu", assignments)


def plan_tpu(assignments: Assignments = None) -> None:
    """Compile the step of the same command with train-tpu for TPU, and say if it fits, and time."""
    _plan("plan-tpu", assignments)


def _plan(name: str, assignments: Assignments) -> None:
    session = Session.of(alone(assignments))
    store = session.chain.executor.store
    command = PlanningCommand.parse(stage_named(name), assignments or [], store)
    published = command.run(session.chain)
    if not session.settings.dry_run:
        report(command.stage, published)
    session.finish(published)


def plan_first(session: Session, training: TrainingCommand, model: Path | None = None) -> None:
    """Compile for the TPU that a training is going to have, before it is paid for.

    `model` is what is trained where the training's own words do not say. It is fetched or grown
    for that; what is only shown may not be there yet, and is not planned.

    Raises:
        InputError: the run does not fit its chips.
    """
    settings, runtime = session.settings, session.chain.executor.runtime
    asked = training.stage.tpu and getattr(training.parameters, "plan", False)
    if not isinstance(runtime, TpuVmRuntime) or not asked:
        return
    given = {name: value for name, value in training.given.items() if name != "NAME"}
    if "ARCH" not in given:
        model = model or training.model(session.chain)
        if not model.exists():
            return
        given["CKPT"] = str(model)
    given["TPU"] = runtime.wanted().tpu.type
    words = [f"{name}={value}" for name, value in given.items()]
    plan = PlanningCommand.parse(stage_named("plan-tpu"), words, session.chain.executor.store)
    published = plan.run(session.chain)
    if settings.dry_run:
        return
    report(plan.stage, published)
    told = json.loads((published / "plan.json").read_text())
    if not told["tried"][0]["fits"] and not settings.force:
        raise InputError(f"the run {told['verdict']} PLAN=0 trains without asking.")
