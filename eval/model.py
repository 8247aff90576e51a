"""A checkpoint as stock transformers loads it, or our loaders those of our forms."""

from pathlib import Path
from typing import Any

import torch

from espalier.errors import EnvironmentFailure
from espalier.models.compact import load_compact
from espalier.models.loading import load_stock
from espalier.models.narrow import is_compact
from espalier.models.shapes import read_config
from espalier.models.sliced import load_sliced
from espalier.models.sliced_form import is_sliced


def load_model(path: Path, dtype: str, device: str) -> Any:
    """A causal language model in evaluation mode, from safetensors and without remote code.

    Args:
        path: a Hugging Face directory.
        dtype: `auto` for that of the stored weights, or a torch name.
        device: `cpu` or `cuda`.

    Raises:
        InputError: it cannot be loaded, or not every weight is the checkpoint's.
        EnvironmentFailure: cuda is asked for and there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFailure(
            "ACCEL=cuda was requested, but no GPU is visible; check the driver and the container's "
            "GPU access, or use ACCEL=cpu."
        )
    config, load = read_config(path), load_stock
    if is_compact(config):
        load = load_compact
    elif is_sliced(config):
        load = load_sliced
    return load(path, None if dtype == "auto" else getattr(torch, dtype)).to(device)
