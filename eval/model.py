"""A checkpoint as stock transformers loads it, or our loader a compact one, to be evaluated."""

from pathlib import Path
from typing import Any

import torch

from espalier.errors import EnvironmentFailure
from espalier.models.compact import load_compact
from espalier.models.loading import load_stock
from espalier.models.narrow import is_compact
from espalier.models.shapes import read_config


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
    load = load_compact if is_compact(read_config(path)) else load_stock
    return load(path, None if dtype == "auto" else getattr(torch, dtype)).to(device)
