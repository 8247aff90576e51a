"""The command that uploads a checkpoint of the store to the hub: push."""

import importlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from espalier.contract.discovery import stage_named
from espalier.contract.files import write_text
from espalier.contract.manifest import pruning_of
from espalier.contract.measure import show_size
from espalier.contract.parameters import Parameters
from espalier.contract.pruned import Foreign
from espalier.contract.store import Store
from espalier.errors import InputError
from espalier.host.cli.session import Assignments, Session
from espalier.host.commands.made_by import command_line
from espalier.host.runners.show import print_rows

SECTIONS = ("checkpoints", "models")
REPORTING, CARGO = "eval.reporting", "inputs.push.cargo"
"""By their names, as a stage's own report is: nothing of them is imported unasked."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(push)


def push(assignments: Assignments = None) -> None:
    """Upload CKPT with its model card to REPO on the hub (PRIVATE, REVISION), as one commit."""
    session = Session.of(assignments)
    rest, stage, store = session.rest, stage_named("push"), session.executor.store
    named = rest.pop("CKPT", "")
    parameters = stage.parameters.from_assignments(rest)
    checkpoint = _on_the_store(store, named)
    _require_loadable(checkpoint)
    name = f"{checkpoint.name}/{parameters.label()}"
    with _card(store, checkpoint) as card:
        if session.settings.dry_run:
            print_rows(_rows(checkpoint, card, parameters))
        inputs = {"checkpoint": checkpoint, "card": card}
        # What is recorded here says what was there once: the hub is always asked.
        session.carry_out(
            "push", lambda draft: draft.make(stage, parameters, inputs, name), anew=True
        )


def _on_the_store(store: Store, named: str) -> Path:
    """The checkpoint, or the model, that CKPT= means.

    Raises:
        InputError: there is none of that name.
    """
    section, _, rest = named.partition("/")
    found = (
        store.find(rest, (section,))
        if section in SECTIONS and rest
        else store.find(named, SECTIONS)
    )
    if found is None:
        raise InputError(
            f"CKPT={named} is not on the store; give a name that make list shows, or adopt your "
            "own directory with make adopt."
        )
    return found


def _require_loadable(checkpoint: Path) -> None:
    """Refuse what nobody could load who has it from the hub.

    Raises:
        InputError: it is of a foreign form.
    """
    pruned = pruning_of(checkpoint)
    if not isinstance(pruned, Foreign):
        return
    if pruned.form in stage_named("pad").forms:
        remedy = f"push the padded form, which make pad CKPT={checkpoint.name} writes"
    else:
        remedy = "make one that they read (of SliceGPT's, with SHARED=1), and push that"
    raise InputError(
        f"{checkpoint.name} has {pruned.description}, which no stock loader reads; {remedy}."
    )


@contextmanager
def _card(store: Store, checkpoint: Path) -> Iterator[Path]:
    """The model card as a file, of what the store says of the checkpoint now."""
    collected: Any = importlib.import_module(f"{REPORTING}.collected")
    card: Any = importlib.import_module(f"{REPORTING}.card")
    cargo: Any = importlib.import_module(CARGO)
    (described,) = collected.collect(store, [f"{checkpoint.parent.name}/{checkpoint.name}"])
    with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
        path = Path(folder) / cargo.CARD
        write_text(path, card.model_card(described, command_line))
        yield path


def _rows(checkpoint: Path, card: Path, parameters: Parameters) -> dict[str, str]:
    """What would be uploaded and where to, for DRY_RUN=1."""
    module: Any = importlib.import_module(CARGO)
    cargo = module.Cargo.of(checkpoint, card.read_bytes())
    where = parameters.model_dump()
    seen = "private where it is made for this" if where["private"] else "seen as its owner has it"
    files = [f"{part.name} ({show_size(part.size)})" for part in cargo.parts]
    return {
        "repository": f"{where['repo']}, branch {where['revision']}, {seen}",
        "files": f"{len(files)}, {cargo.size:,} bytes: {', '.join(files)}",
        "not pushed": ", ".join(cargo.left) or "nothing else is there",
        "manifest": f"without {', '.join(cargo.taken)}" if cargo.taken else "as it is",
    }
