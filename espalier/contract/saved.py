"""How far a stage's saved work goes: where the same command continues after a failure.

A stage notes it after each piece that it has saved; one whose states can be counted names a
function that does so instead, and one that saves nothing says so (`Stage.saved`). Needs no torch:
the host asks too.
"""

import importlib
from pathlib import Path

from espalier.contract.discovery import stage_named
from espalier.contract.files import write_text
from espalier.contract.manifest import RUN_FOLDER, RunSpec

AGAIN = "run the same command to resume"
"""In the sentence of whatever can be resumed."""
NOTE = "saved"


def note(scratch: Path, place: str) -> None:
    """Say that all before `place`, such as `layer 7`, is saved.

    Raises:
        EnvironmentFailure: the disk is full or cannot be written.
    """
    write_text(scratch / NOTE, place)


def noted(scratch: Path) -> str | None:
    """What was noted last, or how much of a checkpoint is written; None: nothing is saved."""
    try:
        return (scratch / NOTE).read_text()
    except OSError:
        return _written(scratch.parent.parent)


def saved_in(partial: Path) -> str | None:
    """Where a later run of the stage goes on with a partial result; None: at the beginning."""
    folder = partial / RUN_FOLDER
    count = noted
    if (folder / "run.json").is_file():
        spec = RunSpec.model_validate_json((folder / "run.json").read_bytes())
        if (named := stage_named(spec.stage).saved) is None:
            return None
        module, _, name = named.partition(":")
        count = getattr(importlib.import_module(module), name)
    return count(folder / "scratch")


def with_place(sentence: str, place: str | None) -> str:
    """A failure's sentence, and from where the same command continues."""
    if place is None:
        return sentence
    if AGAIN in sentence:
        return sentence.replace(AGAIN, f"{AGAIN} from {place}", 1)
    again = AGAIN[0].upper() + AGAIN[1:]
    return f"{sentence} {again} from {place}.".lstrip()


def _written(output: Path) -> str | None:
    """By the journal of a checkpoint's files, which names a tensor a line after its first.

    Once all are written it lies in the run's folder.
    """
    for journal in (*output.glob("*.journal"), *output.glob(f"{RUN_FOLDER}/*.journal")):
        if (tensors := journal.read_bytes().count(b"\n") - 1) > 0:
            return f"tensor {tensors + 1}"
    return None
