"""The processor or the GPU that a stage computes on."""

import torch

from espalier.errors import EnvironmentFailure


def require_device(device: str) -> None:
    """Raise EnvironmentFailure where `device` is asked for and absent."""
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFailure("ACCEL=cuda was requested, but no GPU is visible here.")
