"""A checkpoint as stock transformers loads it."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from espalier.errors import EnvironmentFailure, InputError

DTYPE = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
"""The argument's name, which changed."""


def load_model(path: Path, dtype: str, device: str) -> Any:
    """A causal language model in evaluation mode, from safetensors and without remote code.

    Args:
        path: a Hugging Face directory.
        dtype: `auto` for the checkpoint's own, or a torch name.
        device: `cpu` or `cuda`.

    Raises:
        InputError: it cannot be loaded.
        EnvironmentFailure: cuda is asked for and there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFailure(
            "ACCEL=cuda was requested, but no GPU is visible; check the driver and the container's "
            "GPU access, or use ACCEL=cpu."
        )
    if not any(path.glob("*.safetensors")):
        raise InputError(
            f"{path} holds no .safetensors; pickled weights are never loaded: convert them first."
        )
    chosen = dtype if dtype == "auto" else getattr(torch, dtype)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, local_files_only=True, use_safetensors=True, **{DTYPE: chosen}
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{path} cannot be loaded by transformers {transformers.__version__} ({reason})."
        ) from None
    return model.to(device).eval()
