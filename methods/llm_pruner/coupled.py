"""What has to go together, found in the graph of the model itself (Ma et al. 2023, §3.1).

Torch-Pruning traces one layer of the model's own family, made small: from the rows of one matrix it
follows the autograd graph to every tensor whose rows or columns go with them. Key-value heads that
several query heads read are ours to map, since its graph does not follow repeated heads: the layer
that it is given has as many of one as of the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import nn

from espalier.contract.json_text import from_json, to_json
from espalier.errors import EnvironmentFailure, InputError
from espalier.models.axes import LAYER_AXES, OUTER_AXES, Axis
from espalier.models.stock import stock_config, stock_model

Unit = Literal["heads", "neurons", "channels"]
ROOTS: dict[Unit, str] = {
    "heads": "model.layers.0.self_attn.k_proj",
    "neurons": "model.layers.0.mlp.gate_proj",
    "channels": "model.embed_tokens",
}
"""The matrix whose outputs are removed first, and all else with them."""
AXES: dict[Unit, frozenset[Axis]] = {
    "heads": frozenset({"queries", "keys"}),
    "neurons": frozenset({"intermediate"}),
    "channels": frozenset({"hidden"}),
}
SMALL = {
    "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 1, "head_dim": 8,
    "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 40,
}  # fmt: skip
SPECIAL = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1}
"""Ids that the small vocabulary has."""
WINDOWS = {"sliding_window": None, "use_sliding_window": False, "layer_types": None}
"""Settings of attention that couple nothing, and that one layer has no use for."""
TOKENS = 6


@dataclass(frozen=True)
class Member:
    """A weight matrix, or a norm's gains, of which a part goes with the unit.

    Attributes:
        name: within the layer, or in full outside the layers.
        dimension: along which the part lies.
        axis: which size of the model that dimension is.
    """

    name: str
    dimension: int
    axis: Axis


def coupled(config: Mapping[str, Any]) -> dict[Unit, tuple[Member, ...]]:
    """For each kind of unit the weights that go with it, of a model with this config.json.

    Raises:
        InputError: the graph couples something that cannot be removed here.
    """
    stated = {k: v for k, v in {**SPECIAL, **WINDOWS}.items() if k in config}
    return _traced(to_json({**config, **stated, **SMALL}))


@lru_cache(maxsize=4)
def _traced(config: str) -> dict[Unit, tuple[Member, ...]]:
    try:
        import torch_pruning
    except ImportError:
        raise EnvironmentFailure(
            "Torch-Pruning is not installed; run this in the image llm-pruner."
        ) from None
    stock = stock_config(from_json(config))
    stock._attn_implementation = "eager"  # fused attention is one opaque step of the graph
    with torch.random.fork_rng():
        model = stock_model(stock).float().eval()
    norms = [(w, 0) for name, w in model.named_parameters() if name.endswith("norm.weight")]
    graph = torch_pruning.DependencyGraph()
    graph.build_dependency(
        model,
        example_inputs={"input_ids": torch.arange(TOKENS)[None], "use_cache": False},
        unwrapped_parameters=norms,
        verbose=False,
    )
    names = {module: name for name, module in model.named_modules()}
    weights = {id(weight): name for name, weight in model.named_parameters()}
    found: dict[Unit, tuple[Member, ...]] = {}
    for unit, root in ROOTS.items():
        module = model.get_submodule(root)
        remove = graph.get_pruner_of_module(module).prune_out_channels
        members = set()
        for dependency, _ in graph.get_pruning_group(module, remove, idxs=[0]):
            member = _member(dependency, names, weights)
            if member is not None and member.axis in AXES[unit]:  # gains of a head's norm stay
                members.add(member)
        found[unit] = tuple(sorted(members, key=lambda m: (m.name, m.dimension)))
        _check(unit, found[unit])
    return found


def _member(dependency: Any, names: Mapping[nn.Module, str], weights: Mapping[int, str]) -> Any:
    """The weight that a step of the graph removes a part of; None: it has none."""
    target = dependency.target.module
    if isinstance(target, nn.Linear | nn.Embedding):
        name, outputs = f"{names[target]}.weight", "out" in dependency.handler.__name__
        dimension = int(outputs == isinstance(target, nn.Embedding))  # an embedding is [V, H]
    elif isinstance(target, nn.Parameter):
        name, dimension = weights[id(target)], 0
    else:
        return None
    within = name.removeprefix("model.layers.0.")
    axes = LAYER_AXES.get(within) or OUTER_AXES.get(within)
    if axes is None:
        raise InputError(f"{name} is coupled with what is to be removed, and is not known here.")
    return Member(within, dimension, axes[dimension])


def _check(unit: Unit, members: tuple[Member, ...]) -> None:
    """Refuse a group that is not what the tables of axes, by which weights are written, have."""
    expected = {
        Member(name, dimension, axis)
        for name, axes in {**LAYER_AXES, **OUTER_AXES}.items()
        for dimension, axis in enumerate(axes)
        if axis in AXES[unit] and not name.endswith(".bias")
    }
    if strange := expected ^ set(members):
        names = ", ".join(sorted({member.name for member in strange}))
        raise InputError(
            f"the graph of this family's layers and the tables of their axes disagree about "
            f"{unit} ({names}), so that they cannot be removed together."
        )
