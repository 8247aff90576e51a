"""Composer's checkpoints, read without running anything that a file says."""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

ONLY_WEIGHTS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""torch's variable: whoever calls `torch.load`, and however, nothing is unpickled."""
RECONSTRUCT = np.empty(0).__reduce__()[0]
KNOWN = (
    *(datetime.timedelta, torch.torch_version.TorchVersion),
    *(np.ndarray, np.dtype, type(np.dtype("uint32")), RECONSTRUCT),
    (RECONSTRUCT, "numpy.core.multiarray._reconstruct"),  # as numpy 1 calls it
)
"""What they hold beside tensors and plain values: of clocks, and of numpy's random numbers."""


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
