"""Dropout that a config.json asks for: no trainer here has any, and says so. Needs no torch."""

from collections.abc import Mapping
from typing import Any

KINDS = ("dropout", "pdrop", "layerdrop", "drop_path", "drop_rate")
"""What names of it hold: attention_dropout, hidden_dropout_prob, resid_pdrop, and so on."""


def stated_dropout(config: Mapping[str, Any]) -> dict[str, float]:
    """The probabilities above zero, by name."""
    return {
        name: value
        for name, value in config.items()
        if any(kind in name for kind in KINDS)
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and value > 0
    }


def without_dropout(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with each of them zero.

    Masks would depend on how a run is spread over devices and where it was interrupted; without
    them it is a function of SEED and its data.
    """
    return {**config, **dict.fromkeys(stated_dropout(config), 0.0)}


def dropout_notice(config: Mapping[str, Any]) -> str | None:
    """One line of what is off."""
    stated = ", ".join(f"{name}={value:g}" for name, value in stated_dropout(config).items())
    if not stated:
        return None
    return f"{stated} of config.json is off: runs have no dropout, so that SEED decides them."
