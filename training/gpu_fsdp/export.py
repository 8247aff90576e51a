"""From sharded weights to a Hugging Face directory, a tensor at a time."""

import json
from pathlib import Path

import torch
from torch import Tensor

from espalier.contract.files import write_text
from espalier.models.checkpoint.companions import CONFIG, copy_companions
from espalier.models.checkpoint.header import TensorEntry
from espalier.models.checkpoint.layout import PlannedFile, plan_files, write_index
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.checkpoint.writer import NAMES, write_safetensors
from training.gpu_fsdp.model import LanguageModel
from training.protocol.sparsity import is_masked


def export(
    model: LanguageModel, target: Path, config: dict[str, object], tokenizer: Path, rank: int
) -> None:
    """Write a checkpoint of the config's dtype; every rank takes part, the first one writes.

    Raises:
        EnvironmentFailure: the disk is full or cannot be written.
    """
    dtype = getattr(torch, str(config["torch_dtype"]))
    weights = model.named_weights()
    entries = {
        name: TensorEntry(
            name, NAMES[dtype], tuple(weight.shape), target, 0, weight.numel() * dtype.itemsize
        )
        for name, weight in weights.items()
    }
    layers = [f".layers.{i}." for i in range(len(model.layers))]
    units = [[e for name, e in entries.items() if place in name] for place in layers]
    units.append([e for name, e in entries.items() if ".layers." not in name])
    files = [file for unit in plan_files(units) for file in unit]
    if rank == 0:
        target.mkdir(parents=True, exist_ok=True)
    for file in files:
        whole = {name: _whole(weights[name]).to(dtype) for name in file.tensors}
        if rank == 0:
            write_safetensors(target / file.name, {n: t.cpu() for n, t in whole.items()})
    if rank == 0:
        _finish(target, files, entries, config, tokenizer)


def _finish(
    target: Path,
    files: list[PlannedFile],
    entries: dict[str, TensorEntry],
    config: dict[str, object],
    tokenizer: Path,
) -> None:
    write_index(target, files, {name: entry.nbytes for name, entry in entries.items()})
    copy_companions(tokenizer, target)
    write_text(target / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")


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
