"""Commands that give a checkpoint another form, and train-tpu."""

from pathlib import Path

import typer

from espalier.contract.discovery import stage_named
from espalier.contract.store import name_after
from espalier.errors import InputError
from espalier.host.cli.session import Assignments, Session
from espalier.host.commands.planning import planned_before
from espalier.host.commands.sources import (
    checkpoint_asked,
    default_name,
    model_named,
    state_dict_named,
)
from espalier.host.commands.training import TRAINERS, TrainingCommand
from espalier.host.draft import Draft


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("train-tpu")(train_tpu)
    app.command("to-maxtext")(to_maxtext)
    app.command("to-hf")(to_hf)
    app.command("hf2composer")(hf2composer)
    app.command("composer2hf")(composer2hf)
    app.command("compact")(compact)
    app.command("pad")(pad)
    app.command("publish")(publish)


def train_tpu(assignments: Assignments = None) -> None:
    """Train CKPT, or ARCH from scratch, by MaxText on the token data DATA for TOKENS."""
    session = Session.of(assignments)
    command = TrainingCommand.parse(stage_named(TRAINERS["tpu"]), session.rest)
    tpu = session.paid_tpu

    def build(draft: Draft) -> Path:
        trained = command.add(draft)
        model = None if "ARCH" in command.given else command.model(draft)
        if tpu and (planned := planned_before(draft, command, trained, model, tpu)):
            draft.step("plan-tpu", [planned], tables=[(planned,)])
        draft.step("train-tpu", [trained])
        return trained

    session.carry_out("train-tpu", build)


def publish(assignments: Assignments = None) -> None:
    """Check and publish NAME, which train-tpu has made in an image that cannot: compose's last."""
    session = Session.of(assignments)
    name = session.rest.pop("NAME", "")
    if not name or session.rest:
        raise InputError("give NAME=<what train-tpu has made>, and nothing else.")
    executor = session.executor
    session.finish(str(executor.publish_made(executor.store.path("checkpoints", name))))


def to_maxtext(assignments: Assignments = None) -> None:
    """Write CKPT as a MaxText checkpoint, with layers stacked unless SCAN=0."""
    _from_a_model("to-maxtext", assignments)


def compact(assignments: Assignments = None) -> None:
    """Write CKPT, whose layers are padded, in their true widths: FORM=layers or block-configs."""
    _from_a_model("compact", assignments)


def pad(assignments: Assignments = None) -> None:
    """Write CKPT, which compact has made, in the padded form again."""
    session = Session.of(assignments)
    rest, stage = session.rest, stage_named("pad")
    named, given = rest.pop("CKPT", ""), rest.pop("NAME", "")
    parameters = stage.parameters.from_assignments(rest)

    def build(draft: Draft) -> Path:
        source = model_named(draft, named, "", given_as="CKPT")
        name = given or f"{name_after(source)}-padded"
        return draft.make(stage, parameters, {"compact": source}, name)

    session.carry_out("pad", build)


def _from_a_model(stage_name: str, assignments: Assignments) -> None:
    """Have CKPT, or MODEL, written in another form."""
    session = Session.of(assignments)
    rest, stage = session.rest, stage_named(stage_name)
    found, given = checkpoint_asked(rest), rest.pop("NAME", "")
    parameters = stage.parameters.from_assignments(rest)

    def build(draft: Draft) -> Path:
        source = found(draft)
        name = given or "-".join(filter(None, (name_after(source), parameters.label())))
        return draft.make(stage, parameters, {"model": source}, name)

    session.carry_out(stage_name, build)


def to_hf(assignments: Assignments = None) -> None:
    """Write CKPT, a MaxText checkpoint of the store, as a Hugging Face directory."""
    session = Session.of(assignments)
    rest, stage = session.rest, stage_named("to-hf")
    named, given = rest.pop("CKPT", ""), rest.pop("NAME", "")
    parameters = stage.parameters.from_assignments(rest)

    def build(draft: Draft) -> Path:
        found = draft.find(named, ("maxtext",)) if named else None
        if found is None:
            raise InputError(
                f"CKPT={named} is not a MaxText checkpoint on the store; make one with make "
                "to-maxtext CKPT=<model>."
            )
        name = given or default_name(found, stage, parameters)
        return draft.make(stage, parameters, {"maxtext": found}, name)

    session.carry_out("to-hf", build)


def hf2composer(assignments: Assignments = None) -> None:
    """Write CKPT as the state dict of Sheared-LLaMA's Composer model."""
    _from_a_model("hf2composer", assignments)


def composer2hf(assignments: Assignments = None) -> None:
    """Write CKPT, a state dict of Sheared-LLaMA's Composer model, as a Hugging Face directory."""
    session = Session.of(assignments)
    rest, stage = session.rest, stage_named("composer2hf")
    named, given, like = (rest.pop(word, "") for word in ("CKPT", "NAME", "MODEL"))
    revision = rest.pop("REVISION", "")
    parameters = stage.parameters.from_assignments(rest)

    def build(draft: Draft) -> Path:
        found = state_dict_named(draft, named)
        if not like and found.is_file():
            raise InputError(
                "give MODEL=<a model>, whose config.json and tokenizer are taken: a state dict "
                "has neither."
            )
        owner = model_named(draft, like, revision) if like else found
        called = found.with_suffix("") if found.is_file() else found
        name = given or default_name(called, stage, parameters)
        return draft.make(stage, parameters, {"composer": found, "config": owner}, name)

    session.carry_out("composer2hf", build)
