"""Which stages can take a model of which kind of pruning."""

from collections.abc import Mapping
from pathlib import Path

from espalier.contract.manifest import pruning_of, published_name
from espalier.contract.pruned import Foreign, Padded, Pruned
from espalier.contract.stage import Stage
from espalier.errors import InputError

READS_NO_WEIGHTS = ("tokenizer", "config")
"""Roles of inputs that may be any model."""
PRUNES = ("prune", "score")
"""Verbs of stages that measure weights or cut them."""


def require_usable(stage: Stage, inputs: Mapping[str, Path]) -> None:
    """Refuse a model that the stage cannot read, or that it would misread.

    Args:
        stage: what is to run.
        inputs: its inputs by role; those that are not there yet are passed over.

    Raises:
        InputError: a model is of a foreign form that the stage does not read; or it is padded and
            would be pruned again.
    """
    for role, path in inputs.items():
        if role not in READS_NO_WEIGHTS:
            require_kind(stage, published_name(path, path.name), pruning_of(path))


def require_kind(stage: Stage, name: str, pruned: Pruned | None) -> None:
    """As `require_usable`, of one model."""
    match pruned:
        case Foreign() if pruned.form not in stage.forms:
            raise InputError(
                f"{name} has {pruned.description}, which {stage.name} cannot read; use image "
                f"{pruned.image}, whose stages can."
            )
        case Padded() if stage.verb in PRUNES:
            raise InputError(
                f"{name} is padded: its layers have different true widths, and {stage.name} would "
                "take its padding for weights; prune its parent instead."
            )
