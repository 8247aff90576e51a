"""`scores.json`: what was measured of a model, so that several shapes can be cut from one pass."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espalier.contract.files import write_text
from espalier.contract.json_text import read_json, to_json
from espalier.contract.manifest import published_name
from espalier.errors import InputError
from espalier.models.shapes import Shapes, read_config

SCORES = "scores.json"
NAMING = ("source", "samples", "seqlen", "rows", "shots", "sha256")
DIGITS = 9
"""Enough to give back every float32."""


def model_name(model: Path) -> str:
    """What the store calls a model; its family where it is a plain path, seen by another name."""
    return published_name(model, otherwise=str(read_config(model).get("model_type")))


def about_data(record: Mapping[str, Any]) -> dict[str, Any]:
    """Of a calibration's record what names the tokens."""
    return {key: record[key] for key in NAMING if key in record}


def shortened(values: Any) -> Any:
    """Floats, also in lists of lists, with the digits that tell one float32 from another."""
    if isinstance(values, list):
        return [shortened(value) for value in values]
    return float(f"{values:.{DIGITS}g}")


def write_scores(directory: Path, scores: Mapping[str, Any]) -> None:
    """Write `scores.json`, a list of numbers on one line."""
    lines = [f" {to_json(key)}: {to_json(value)}" for key, value in scores.items()]
    write_text(directory / SCORES, "{\n" + ",\n".join(lines) + "\n}\n")


def read_scores(directory: Path, kind: str, model: Path) -> dict[str, Any]:
    """The scores of that kind in a published directory.

    Raises:
        InputError: there are none, of another kind, or of a model of another depth.
    """
    path = directory / SCORES
    try:
        scores = read_json(path, "make the scores again")
    except OSError:
        scores = None
    if not isinstance(scores, dict):
        raise InputError(f"{path} cannot be read; make the scores again.")
    layers = Shapes.of(read_config(model)).layers
    if scores.get("kind") != kind or scores.get("layers") != layers:
        raise InputError(
            f"{path} holds {scores.get('kind')} scores of {scores.get('layers')} layers where "
            f"{kind} scores of {layers} layers are needed; leave SCORES out to measure them."
        )
    return scores
