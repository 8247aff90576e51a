"""Commands that tell what a training run needs, before any of it is there."""

from pathlib import Path

import typer

from espalier.contract.discovery import stage_named
from espalier.host.cli.session import Assignments, Session
from espalier.host.commands.planning import PlanningCommand, single_process
from espalier.host.draft import Draft


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
    session = Session.of(single_process(assignments))
    command = PlanningCommand.parse(stage_named(name), assignments or [], session.executor.store)

    def build(draft: Draft) -> Path:
        planned = command.add(draft)
        draft.step(name, [planned], tables=[(planned,)])
        return planned

    session.carry_out(name, build)
