"""From a checkpoint and adapters to a checkpoint: added in float32, rounded once, zeros kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.models.checkpoint.companions import CONFIG, copy_companions
from espalier.models.checkpoint.header import TensorSpec
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.checkpoint.writer import NAMES, CheckpointWriter, Content
from training.gpu_fsdp.model import LanguageModel
from training.recover.adapters import ADAPTER, changes, weights_beside


def write_merged(
    model: LanguageModel,
    source: Path,
    target: Path,
    config: Mapping[str, Any],
    *,
    zeros: bool,
) -> None:
    """Write the checkpoint with what its adapters add, a tensor at a time.

    Args:
        model: whose adapters they are.
        source: the checkpoint, read again: the model may compute in a shorter dtype.
        target: the directory to write to.
        config: the result's config.json, which states its dtype.
        zeros: whether what is zero has to be so afterwards.

    Raises:
        EnvironmentFailure: the disk is full or cannot be written.
        RuntimeError: a zero was lost, by a mistake of ours.
    """
    dtype = getattr(torch, str(config["torch_dtype"]))
    reader, adapted = CheckpointReader(source), dict(changes(model))
    names = weights_beside(model)
    specs = [TensorSpec(name, NAMES[dtype], tuple(w.shape)) for name, w in names.items()]
    target.mkdir(parents=True, exist_ok=True)
    writer = CheckpointWriter(target, specs)
    for name in names:
        content: Content = reader.entries[name]
        if name in adapted:
            weight = reader.read(name)
            with torch.no_grad():
                change = adapted[name].get_delta_weight(ADAPTER).cpu()
            content = (weight.float() + change).to(dtype)
            if zeros and torch.count_nonzero(content[weight == 0]):
                raise RuntimeError(f"{name} lost zeros when its adapter was merged")
        elif reader.entries[name].dtype != NAMES[dtype]:
            content = reader.read(name).to(dtype)
        writer.write({name: content})
    writer.finish()
    copy_companions(source, target)
    write_text(target / CONFIG, to_json(dict(config), indent=2, sort_keys=True) + "\n")
