"""Commands for MaxText: train-tpu, to-maxtext, to-hf, publish."""

import typer

from espalier.contract.discovery import stage_named
from espalier.errors import InputError
from espalier.host.chain import default_name
from espalier.host.cli.plan import plan_first
from espalier.host.cli.session import Assignments, Session
from espalier.host.commands.training import TRAINERS, TrainingCommand


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("train-tpu")(train_tpu)
    app.command("to-maxtext")(to_maxtext)
    app.command("to-hf")(to_hf)
    app.command("publish")(publish)


def train_tpu(assignments: Assignments = None) -> None:
    """Train CKPT, or ARCH from scratch, by MaxText on the token data DATA for TOKENS."""
    session = Session.of(assignments)
    command = TrainingCommand.parse(stage_named(TRAINERS["tpu"]), session.rest)
    plan_first(session, command)
    session.finish(command.run(session.chain))


def publish(assignments: Assignments = None) -> None:
    """Check and publish NAME, which train-tpu has made in an image that cannot: compose's last."""
    session = Session.of(assignments)
    name = session.rest.pop("NAME", "")
    if not name or session.rest:
        raise InputError("give NAME=<what train-tpu has made>, and nothing else.")
    executor = session.chain.executor
    session.finish(executor.publish_made(executor.store.path("checkpoints", name)))


def to_maxtext(assignments: Assignments = None) -> None:
    """Write CKPT as a MaxText checkpoint, with layers stacked unless SCAN=0."""
    session = Session.of(assignments)
    rest, stage = session.rest, stage_named("to-maxtext")
    named = rest.pop("CKPT", "") or rest.pop("MODEL", "sapling")
    source = session.chain.model(named, rest.pop("REVISION", ""))
    given = rest.pop("NAME", "")
    parameters = stage.parameters.from_assignments(rest)
    label = parameters.label()
    name = given or "-".join(filter(None, (source.resolve().name, label)))
    session.finish(session.chain.run(stage, parameters, {"model": source}, name))


def to_hf(assignments: Assignments = None) -> None:
    """Write CKPT, a MaxText checkpoint of the store, as a Hugging Face directory."""
    session = Session.of(assignments)
    rest, stage = session.rest, stage_named("to-hf")
    named, given = rest.pop("CKPT", ""), rest.pop("NAME", "")
    store = session.chain.executor.store
    found = store.find(named, ("maxtext",)) if named else None
    if found is None:
        raise InputError(
            f"CKPT={named} is no MaxText checkpoint on the store; make one with make to-maxtext "
            "CKPT=<model>."
        )
    parameters = stage.parameters.from_assignments(rest)
    name = given or default_name(found, stage, parameters)
    session.finish(session.chain.run(stage, parameters, {"maxtext": found}, name))
