"""FSDP2 over all ranks: each layer a unit, replicated groups where asked, mixed precision."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from espalier.errors import InputError
from training.protocol.parameters import largest_divisor

DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Layout:
    """How a model is run; none of it changes what is computed but for rounding.

    Attributes:
        replicas: groups of ranks that each hold the whole model (HSDP); 1: all ranks shard it.
        recompute: keep a layer's input alone and run it again for its gradients.
        compile: torch.compile each layer.
    """

    replicas: int = 1
    recompute: bool = False
    compile: bool = False


def device_mesh(device: str, world: int, replicas: int) -> DeviceMesh:
    """One dimension, or replicas by shards.

    Raises:
        InputError: the ranks do not divide into so many replicas.
    """
    if world % replicas:
        raise InputError(
            f"REPLICAS={replicas} does not divide the {world} processes; give "
            f"REPLICAS={largest_divisor(world, replicas)}."
        )
    if replicas == 1:
        return init_device_mesh(device, (world,), mesh_dim_names=("shard",))
    return init_device_mesh(
        device, (replicas, world // replicas), mesh_dim_names=("replicate", "shard")
    )


def shard(
    root: nn.Module,
    layers: nn.ModuleList,
    mesh: DeviceMesh,
    layout: Layout,
    precision: str,
) -> None:
    """Shard a model that lies on the meta device, in place.

    Weights and their reduced gradients are float32, products of `precision`. The root's weights
    (embedding, final norm, head) stay gathered from forward to backward, which both need them; so
    do one process's float32 weights, whose copies would only be made twice.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=DTYPES[precision], reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for layer in layers:
        if layout.recompute:
            recompute(layer)
        if layout.compile:
            layer.compile()
        alone = mesh.size() == 1 and precision == "float32"
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=not alone)
    fully_shard(root, mesh=mesh, mp_policy=policy, reshard_after_forward=False)


def recompute(layer: nn.Module) -> None:
    """Activation checkpointing of one layer, its names unchanged."""
    from torch.distributed._composable import checkpoint

    checkpoint(layer)


def release(root: nn.Module) -> None:
    """Let go of gathered weights where no backward follows a forward."""
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
