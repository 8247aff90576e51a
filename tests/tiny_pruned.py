"""Tiny checkpoints of each kind of pruning, made by hand, and their manifests."""

import json
from pathlib import Path
from typing import Any

import torch

from espalier.contract.files import write_text
from espalier.contract.pruned import Foreign, KeptIndices, Padded, PaddedLayer, Sizes
from tests.manifests import mark_pruned
from tests.tiny import SHAPE, tiny_llama
from tests.unit.tiny_checkpoints import load_all, rewrite

HEAD_DIM = SHAPE["head_dim"]
SIZES = Sizes(layers=3, hidden=32, intermediate=48, heads=4, kv_heads=2)
LAYERS = (
    PaddedLayer(heads=4, kv_heads=2, intermediate=40, padding={"intermediate": ((40, 48),)}),
    PaddedLayer(
        heads=2,
        kv_heads=1,
        intermediate=36,
        padding={
            "heads": ((2, 4),),
            "kv_heads": ((1, 2),),
            "intermediate": ((3, 7), (40, 48)),
        },
    ),
    PaddedLayer(heads=4, kv_heads=2, intermediate=48),
)
PADDED = Padded(
    before=SIZES,
    after=SIZES,
    achieved=0.2,
    layers=LAYERS,
    kept=KeptIndices(
        layers=(0, 1, 2),
        intermediate=(
            tuple(range(40)),
            (0, 1, 2, *range(7, 40)),
            tuple(range(48)),
        ),
        heads=((0, 1, 2, 3), (0, 1), (0, 1, 2, 3)),
        kv_heads=((0, 1), (0,), (0, 1)),
    ),
)
"""A whole layer, one with fewer neurons, and one with fewer of everything."""
FOREIGN = Foreign(
    form="slicegpt",
    description="SliceGPT's rotations between its blocks",
    image="slicegpt",
    achieved=0.25,
)


def padding_by_hand() -> dict[str, torch.Tensor]:
    """Where the tensors of `tiny_padded` are padding, bool, written out tensor by tensor."""
    where = {}
    for number, neurons in ((0, [*range(40, 48)]), (1, [*range(3, 7), *range(40, 48)])):
        for name in ("gate_proj", "up_proj"):
            where[f"model.layers.{number}.mlp.{name}.weight"] = rows(48, 32, neurons)
        where[f"model.layers.{number}.mlp.down_proj.weight"] = rows(48, 32, neurons).T
    attention = "model.layers.1.self_attn"
    where[f"{attention}.q_proj.weight"] = rows(32, 32, range(16, 32))
    where[f"{attention}.o_proj.weight"] = rows(32, 32, range(16, 32)).T
    for name in ("k_proj", "v_proj"):
        where[f"{attention}.{name}.weight"] = rows(16, 32, range(8, 16))
    for name, indices, size in (
        ("q_proj", range(16, 32), 32), ("k_proj", range(8, 16), 16), ("v_proj", range(8, 16), 16)
    ):  # fmt: skip
        where[f"{attention}.{name}.bias"] = rows(size, 1, indices)[:, 0]
    return where


def rows(count: int, width: int, chosen: Any) -> torch.Tensor:
    found = torch.zeros(count, width, dtype=torch.bool)
    found[list(chosen)] = True
    return found


def tiny_padded(directory: Path, **changes: Any) -> Path:
    """A padded Llama of three layers, whose manifest says so."""
    tiny_llama(directory, **changes)
    weights = load_all(directory)
    for name, padding in padding_by_hand().items():
        if name in weights:
            rewrite(directory, **{name.replace(".", "__"): weights[name].masked_fill(padding, 0)})
    mark_pruned(directory, PADDED)
    return directory


def tiny_foreign(directory: Path) -> Path:
    """A checkpoint that no stock loader reads, whose manifest names the image that does."""
    tiny_llama(directory)
    rewrite(directory, **{"model__layers__0__attn_rotation": torch.eye(32)})
    config = json.loads((directory / "config.json").read_text()) | {"model_type": "sliced-llama"}
    write_text(directory / "config.json", json.dumps(config))
    mark_pruned(directory, FOREIGN)
    return directory
