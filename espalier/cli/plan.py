"""Commands that tell what a training run needs, before any of it is there."""

import typer

from espalier.cli.run import report
from espalier.cli.session import Assignments, Session
from espalier.discovery import stage_named
from espalier.planning_command import PlanningCommand, alone


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
