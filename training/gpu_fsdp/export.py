"""From sharded weights to a Hugging Face directory, a tensor at a time."""

from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.models.checkpoint.companions import CONFIG, copy_companions
from espalier.models.checkpoint.header import TensorSpec
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.checkpoint.writer import NAMES, CheckpointWriter
from espalier.models.found_zeros import is_masked
from training.gpu_fsdp.model import LanguageModel


def export(
    model: LanguageModel, target: Path, config: dict[str, object], tokenizer: Path, rank: int
) -> None:
    """Write a checkpoint of the config's dtype; every rank takes part, the first one writes.

    Raises:
        EnvironmentFailure: the disk is full or cannot be written.
    """
    dtype = getattr(torch, str(config["torch_dtype"]))
    weights = model.named_weights()
    writer = None
    if rank == 0:
        target.mkdir(parents=True, exist_ok=True)
        specs = [TensorSpec(n, NAMES[dtype], tuple(w.shape)) for n, w in weights.items()]
        writer = CheckpointWriter(target, specs)
    for _, names in groupby(weights, key=_unit):
        whole = {name: _whole(weights[name]).to(dtype) for name in names}
        if writer is not None:
            writer.write(whole)
    if writer is not None:
        writer.finish()
        copy_companions(tokenizer, target)
        write_text(target / CONFIG, to_json(config, indent=2, sort_keys=True) + "\n")


def _unit(name: str) -> list[str]:
    """What is written at once: a layer, or a tensor outside the layers."""
    return name.split(".")[:3]


def _whole(tensor: Tensor) -> Tensor:
    value = tensor.detach()
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def sparsity_of(checkpoint: Path) -> float:
    """Zeros among the entries of the layers' matrices."""
    reader = CheckpointReader(checkpoint)
    zeros = total = 0
    for name, entry in reader.entries.items():
        if is_masked(name, entry.shape):
            for block in reader.blocks(name):
                zeros += int(torch.count_nonzero(block == 0))
                total += block.numel()
    return zeros / total
