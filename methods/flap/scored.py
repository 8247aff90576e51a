"""The figures that scores are made of, on the disk: six of every feature of every layer.

`scores.json` says of what they are, `figures.safetensors` holds `<site>.<figure>`, float32 [L, C].
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from espalier.errors import InputError
from espalier.models.checkpoint.header import read_header
from espalier.models.checkpoint.reader import check_finite, read_entry
from espalier.models.checkpoint.writer import write_safetensors
from espalier.models.shapes import Shapes
from espalier.pruning.structured.units import ATTENTION, MLP
from methods.flap.algorithm import WEIGHT_SIZES, WEIGHT_SQUARES
from methods.flap.statistics import EXACT, MEAN, RUNNING, SQUARES

KIND = "flap"
FILE = "figures.safetensors"
SITES = {"attn": ATTENTION, "mlp": MLP}
FIGURES = (MEAN, RUNNING, EXACT, SQUARES, WEIGHT_SQUARES, WEIGHT_SIZES)

Figures = dict[str, dict[str, Tensor]]
"""By site and name, float32 [L, C], or [C] of one layer."""


def write_layer(path: Path, figures: Mapping[str, Mapping[str, Tensor]]) -> None:
    """One layer's figures, float32 [C] each."""
    write_safetensors(path, {f"{s}.{n}": v for s, each in figures.items() for n, v in each.items()})


def join_layers(paths: list[Path], path: Path) -> Figures:
    """Write what lies in a file a layer as one file, and give it."""
    layers = [_read(each) for each in paths]
    joined = {name: torch.stack([layer[name] for layer in layers]) for name in layers[0]}
    write_safetensors(path, joined)
    return _by_site(joined)


def read_figures(directory: Path, shapes: Shapes) -> Figures:
    """What a published directory of scores holds.

    Raises:
        InputError: it cannot be read, or is of a model of other widths.
    """
    path = directory / FILE
    try:
        found = _by_site(_read(path))
    except (OSError, KeyError, ValueError):
        raise InputError(f"{path} cannot be read; make the scores again.") from None
    widths = {"attn": shapes.heads * shapes.head_dim, "mlp": shapes.intermediate}
    for site, features in widths.items():
        for name in FIGURES:
            size = (shapes.layers, features)
            if (held := tuple(found[site][name].shape)) != size:
                raise InputError(
                    f"{path} holds {list(held)} figures of {site} where the model has "
                    f"{list(size)}; leave SCORES out to measure them."
                )
    return found


def _read(path: Path) -> dict[str, Tensor]:
    found = {}
    for name, entry in read_header(path).items():
        found[name] = read_entry(entry)
        check_finite(name, found[name])
    return found


def _by_site(tensors: Mapping[str, Tensor]) -> Figures:
    return {site: {name: tensors[f"{site}.{name}"] for name in FIGURES} for site in SITES}
