"""What a stage is given: models are refused or noted before it computes anything."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from espalier.contract.manifest import pruning_of
from espalier.contract.pruned import Foreign
from espalier.contract.stage import Stage
from espalier.models.shapes import config_notes, is_model

MODELS = ("model", "teacher", "source")
"""Roles of inputs whose weights a stage reads as a Hugging Face directory."""


def check_models(stage: Stage, inputs: Mapping[str, Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Refuse a model that is not what its config.json says.

    What the result has to pass, the model has to pass first; in an image without torch, as much of
    that as its tensors' names and heads show. An evaluation loads the stock model, of any family.

    Returns:
        checks and notes for the manifest.

    Raises:
        InputError: a model is not what it says.
    """
    from espalier.models.content import check_content, dtype_note

    checks, notes = {}, {}
    for role in MODELS:
        path = inputs.get(role)
        if path is None or not path.is_dir() or isinstance(pruning_of(path), Foreign):
            continue
        if stage.verb == "eval" or stage.checked_in is not None:
            check_content(path)
        else:
            from espalier.models.gates import check_parent

            checks[role] = check_parent(path)  # its content too
        if (note := dtype_note(path)) is not None:
            notes[f"{role}_dtype"] = note
    return {"inputs": checks} if checks else {}, notes


def notes_of(inputs: Mapping[str, Path]) -> dict[str, Any]:
    """What of the models that were given was not taken as it stands there, by role."""
    found = {role: config_notes(path) for role, path in inputs.items() if is_model(path)}
    return {f"{role}_config": notes for role, notes in found.items() if notes}


def tokens_without_row(places: Iterable[Path]) -> list[str]:
    """Added tokens that an embedding in one of these folders has no row for.

    Models that a tokenizer came with and nobody has resized have some; no text may hold them.
    """
    from espalier.models import tokenizer

    return list(
        dict.fromkeys(name for place in places for name in tokenizer.tokens_without_row(place))
    )
