"""Composer's checkpoints, read without running anything that a file says."""

import datetime
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from espalier.errors import InputError

ONLY_WEIGHTS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""torch's variable: whoever calls `torch.load`, and however, nothing is unpickled."""
RECONSTRUCT = np.empty(0).__reduce__()[0]
KNOWN = (
    *(datetime.timedelta, torch.torch_version.TorchVersion),
    *(np.ndarray, np.dtype, type(np.dtype("uint32")), RECONSTRUCT),
    (RECONSTRUCT, "numpy.core.multiarray._reconstruct"),  # as numpy 1 calls it
)
"""What they hold beside tensors and plain values: of clocks, and of numpy's random numbers."""
HELD = {"state", "rng"}
"""Of what each has."""


@contextmanager
def only_known() -> Iterator[None]:
    """Within this context torch reads tensors, plain values and what is `KNOWN`, or fails."""
    before = os.environ.get(ONLY_WEIGHTS)
    os.environ[ONLY_WEIGHTS] = "1"
    try:
        with torch.serialization.safe_globals(list(KNOWN)):
            yield
    finally:
        if before is None:
            del os.environ[ONLY_WEIGHTS]
        else:
            os.environ[ONLY_WEIGHTS] = before


def require_readable(path: Path) -> None:
    """Refuse a checkpoint before Composer reads it; tensors stay on the disk.

    Raises:
        InputError: it is cut short, holds anything else that would have to be unpickled, or is none
            of Composer's.
    """
    try:
        with only_known():
            found = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, LookupError, OSError, EOFError):
        found = None
    if not isinstance(found, dict) or not found.keys() >= HELD:
        raise InputError(
            f"{path} is no whole checkpoint of this run, or holds what is not read here; remove "
            f"{path.parent} to begin with the first step."
        )
