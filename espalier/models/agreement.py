"""Whether the walk through a checkpoint's layers is the stock model that config.json describes.

Every stage that prunes or scores walks a layer at a time; whoever uses the result loads the stock
model. Both are given the same few tokens. A small checkpoint is loaded as its users load it. Of a
large one the stock model's own forward runs, each layer filled when its turn comes: no more is held
than the walk holds, and the file is read once for both.

Shapes: T tokens, H hidden, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from espalier.errors import InputError
from espalier.models.adapter import Architecture
from espalier.models.decoder import Decoder, Layer
from espalier.models.loading import load_stock
from espalier.models.products import products

WHOLE_BYTES = 64 << 20
"""Up to here a checkpoint is loaded whole, in float32."""
PROBE_TOKENS = 16
MAX_WINDOW = 128
"""A sliding window up to here is passed by the tokens, so that it has to agree too."""
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Of the largest logit: several roundings of hidden states by another order of summation."""

Visit = Callable[[Layer], None]


@dataclass(frozen=True)
class Agreement:
    """What was found.

    Attributes:
        loss: mean cross-entropy of the next token in the walk, which may not be finite.
        difference: of a logit from the stock model's, at most.
        layers: how many were walked.
        way: how the stock model was run.
    """

    loss: float
    difference: float
    layers: int
    way: str

    def record(self) -> dict[str, Any]:
        """As a manifest has it."""
        return {
            "max_difference": self.difference,
            "layers": self.layers,
            "stock_model": self.way,
            "transformers": transformers.__version__,
        }


def compare_with_stock(
    decoder: Decoder, visit: Visit = lambda layer: None, layers: int | None = None
) -> Agreement:
    """Give a few tokens to the layers one at a time, and to the stock model.

    Args:
        decoder: of the checkpoint.
        visit: what else is done with each layer, before it runs.
        layers: at most so many of the first ones; default all.

    Raises:
        InputError: their logits differ.
    """
    ids = probe_ids(decoder.architecture)
    stored = sum(entry.nbytes for entry in decoder.reader.entries.values())
    with torch.inference_mode():
        if stored <= WHOLE_BYTES:
            return _beside_whole(decoder, ids, visit)
        return _side_by_side(decoder, ids, visit, layers or decoder.num_layers)


def probe_ids(architecture: Architecture) -> Tensor:
    """The tokens, int64 [T]."""
    shapes, window = architecture.shapes, getattr(architecture.config, "sliding_window", None)
    passed = window + PROBE_TOKENS if window and window <= MAX_WINDOW else PROBE_TOKENS
    return torch.arange(min(passed, shapes.positions)) * 7 % shapes.vocabulary


def _beside_whole(decoder: Decoder, ids: Tensor, visit: Visit) -> Agreement:
    """The walk beside the stock model as it is loaded, both in float32."""
    directory, wide = decoder.reader.directory, torch.float32
    used = walked = _walked(decoder, ids, visit)
    if decoder.dtype != wide:
        walked = _walked(Decoder(directory, dtype=wide), ids, lambda layer: None)
    stock = load_stock(directory, wide)(ids[None], use_cache=False).logits[0]
    difference = _difference(decoder, walked, stock, wide)
    return Agreement(_loss(used, ids), difference, decoder.num_layers, "whole, in float32")


def _walked(decoder: Decoder, ids: Tensor, visit: Visit) -> Tensor:
    """Logits [T, V] of the walk."""
    hidden = decoder.embed(ids[None])
    for layer in decoder.layers():
        visit(layer)
        hidden = layer.run(hidden)
    return decoder.logits(hidden)[0]


def _side_by_side(decoder: Decoder, ids: Tensor, visit: Visit, layers: int) -> Agreement:
    """The stock model's forward, which draws on the same layers as the walk."""
    architecture, hidden = decoder.architecture, decoder.embed(ids[None])  # [1, T, H]
    stock = architecture.empty_decoder(layers)
    walked, coming = [hidden], decoder.layers(range(layers))

    def fill(place: nn.Module, given: Any) -> None:
        layer = next(coming)
        visit(layer)
        walked[0] = layer.run(walked[0])
        place.load_state_dict(layer.module.state_dict(), assign=True)
        for name, buffer in layer.module.named_buffers():
            owner, _, leaf = name.rpartition(".")
            place.get_submodule(owner).register_buffer(leaf, buffer, persistent=False)

    def empty(place: nn.Module, given: Any, output: Any) -> None:
        place.to("meta")

    for place in stock.layers:
        place.register_forward_pre_hook(fill)
        place.register_forward_hook(empty)
    stock.norm = nn.Identity()  # the one of the walk is the stock one, and read once for both
    with products(decoder.kernel):
        output = stock(inputs_embeds=hidden, use_cache=False, return_dict=True)
    logits = decoder.logits(torch.cat([walked[0], output.last_hidden_state]))  # [2, T, V]
    difference = _difference(decoder, logits[0], logits[1], decoder.dtype)
    return Agreement(_loss(logits[0], ids), difference, layers, "layer by layer, as stored")


def _loss(logits: Tensor, ids: Tensor) -> float:
    """Of the first tokens' next ones; the same however many more a sliding window asks for."""
    count = min(PROBE_TOKENS, len(ids))
    return float(nn.functional.cross_entropy(logits[: count - 1].float(), ids[1:count]))


def _difference(decoder: Decoder, walked: Tensor, stock: Tensor, dtype: Any) -> float:
    walked, stock = walked.float(), stock.float()
    difference, largest = float((walked - stock).abs().max()), float(stock.abs().max())
    bound = TOLERANCE[dtype] * largest
    if bool(walked.isfinite().all()) and not difference <= bound:
        raise InputError(
            f"the layers of {decoder.reader.directory}, walked one at a time, give logits up to "
            f"{difference:.3g} away from those of the stock model of transformers "
            f"{transformers.__version__} (the largest is {largest:.3g}): its config.json asks for "
            "something that is not supported; take out of it what a stock model does not need."
        )
    return difference
