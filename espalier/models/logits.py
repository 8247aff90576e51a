"""Whether another implementation of a model gives the stock model's logits.

The other one runs in an image of its own and leaves a file; here the stock layers, read one at a
time, are given the same tokens.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from espalier.errors import InputError
from espalier.models.decoder import Decoder

MAX_DIFFERENCE, MAX_KL = 1e-3, 1e-5


def check_logits(directory: Path, file: Path) -> dict[str, Any]:
    """Compare what `file` holds with the stock model in `directory`, in float32.

    It holds `input_ids` int64 [B, T], ascending `positions` int64 [T] and `logits` float32
    [B, T, V].

    Returns:
        the largest difference of a logit, and the largest KL divergence of a position.

    Raises:
        InputError: one of them is above its bound.
    """
    found = load_file(file)
    with torch.inference_mode():
        expected = stock_logits(directory, found["input_ids"], found["positions"])
        difference = float((expected - found["logits"]).abs().max())
        divergence = float(_divergence(expected, found["logits"]).max())
    if not (difference <= MAX_DIFFERENCE and divergence <= MAX_KL):
        raise InputError(
            f"the converted model's logits differ from {directory.name}'s by up to {difference:.3g}"
            f" (KL {divergence:.3g}), where {MAX_DIFFERENCE:g} (KL {MAX_KL:g}) are allowed; "
            "nothing is published."
        )
    return {"logits_max_difference": difference, "logits_max_kl": divergence}


def stock_logits(directory: Path, input_ids: Tensor, positions: Tensor) -> Tensor:
    """Logits float32 [B, T, V] of ids int64 [B, T] at positions int64 [T]; two layers are held."""
    decoder = Decoder(directory, dtype=torch.float32, position_ids=positions)
    hidden = decoder.embed(input_ids)
    for layer in decoder.layers():
        hidden = layer.run(hidden)
    return decoder.logits(hidden)


def _divergence(expected: Tensor, found: Tensor) -> Tensor:
    """KL(expected || found), float64 [B, T]."""
    logs = [log_softmax(logits.double(), dim=-1) for logits in (expected, found)]
    return kl_div(logs[1], logs[0], reduction="none", log_target=True).sum(-1)
