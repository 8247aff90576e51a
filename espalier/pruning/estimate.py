"""What pruning a checkpoint needs, from its shapes alone. Needs no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from espalier.contract.stage import Estimate
from espalier.models.shapes import Shapes
from espalier.pruning.depth.cuts import Cut, chunk_tokens, layer_runs
from espalier.pruning.parameters import default_batch

PROCESS_BYTES = 420 << 20
"""Python, torch and transformers before any weight is read."""
DEFAULT_POSITIONS = 2048
PRODUCT_FLOPS = 80e9
"""Products of float32 matrices on two server cores; a 16-bit unit or a GPU is faster."""
DISK_BYTES_PER_SECOND = 250e6


@dataclass(frozen=True)
class Tokens:
    """Calibration as estimated: samples of `length` tokens, `batch` tokens at a time."""

    samples: int
    length: int
    batch: int

    @classmethod
    def of(cls, samples: int, seqlen: int | None, batch: int | None, shapes: Shapes) -> "Tokens":
        length = seqlen or min(shapes.positions, DEFAULT_POSITIONS)
        return cls(samples, length, min(batch or default_batch(length), samples) * length)

    @property
    def count(self) -> int:
        return self.samples * self.length


def estimate_weights_only(config: Mapping[str, Any]) -> Estimate:
    """A method that reads, decides and writes: three layers in flight, one more in scores."""
    shapes = Shapes.of(config)
    layer = shapes.layer_parameters * shapes.item_bytes
    checkpoint = shapes.parameters * shapes.item_bytes
    return Estimate(
        memory=PROCESS_BYTES + 4 * layer,
        disk=checkpoint,
        seconds=10 + 3 * checkpoint / DISK_BYTES_PER_SECOND,
    )


def estimate_streamed(
    config: Mapping[str, Any],
    tokens: Tokens,
    statistic_bytes: int = 0,
    working_bytes: int = 0,
    method_flops: float = 0,
) -> Estimate:
    """A method that passes calibration tokens through every layer.

    Args:
        config: the parent's config.json.
        tokens: the calibration.
        statistic_bytes: what the method gathers in a layer.
        working_bytes: what it needs while it prunes one matrix, when no activations are held.
        method_flops: what it computes in a layer beside the two passes.
    """
    shapes = Shapes.of(config)
    layer = shapes.layer_parameters * shapes.item_bytes
    checkpoint = shapes.parameters * shapes.item_bytes
    hidden = tokens.count * shapes.hidden * shapes.item_bytes
    # Six tensors of the residual stream's width, three of the feed-forward's, one of them widened.
    residual, inner = 6 * shapes.hidden, 3 * shapes.intermediate
    activations = tokens.batch * ((residual + inner) * shapes.item_bytes + 4 * shapes.intermediate)
    last = shapes.hidden * shapes.intermediate
    passes = 2 * tokens.count * (2 * shapes.layer_parameters - last)
    attention = 8 * tokens.count * tokens.length * shapes.heads * shapes.head_dim
    flops = shapes.layers * (passes + attention + method_flops)
    return Estimate(
        memory=math.ceil(
            PROCESS_BYTES + 2 * layer + hidden + statistic_bytes + max(activations, working_bytes)
        ),
        disk=checkpoint + 2 * hidden,
        seconds=15 + flops / PRODUCT_FLOPS + 3 * checkpoint / DISK_BYTES_PER_SECOND,
        products=flops / PRODUCT_FLOPS,
    )


def estimate_forward(
    config: Mapping[str, Any], tokens: Tokens, streams: int = 1, passes: float = 0, heads: int = 0
) -> Estimate:
    """A stage that only runs the model forwards, a layer at a time.

    Args:
        config: the model's config.json.
        tokens: what is passed through.
        streams: hidden states of all tokens that are held at once.
        passes: layers run in all (0: each once).
        heads: times that the head is computed for all tokens.
    """
    shapes = Shapes.of(config)
    layer = shapes.layer_parameters * shapes.item_bytes
    hidden = tokens.count * shapes.hidden * shapes.item_bytes
    residual, inner = 8 * shapes.hidden, 4 * shapes.intermediate
    activations = tokens.batch * (residual + inner) * max(shapes.item_bytes, 4)
    attention = 4 * tokens.length * shapes.heads * shapes.head_dim
    flops = tokens.count * (passes or shapes.layers) * (2 * shapes.layer_parameters + attention)
    flops += 2 * tokens.count * heads * shapes.vocabulary * shapes.hidden
    checkpoint = shapes.parameters * shapes.item_bytes
    return Estimate(
        memory=math.ceil(PROCESS_BYTES + 2 * layer + streams * hidden + activations),
        disk=2 * hidden,
        seconds=15 + flops / PRODUCT_FLOPS + checkpoint / DISK_BYTES_PER_SECOND,
        products=flops / PRODUCT_FLOPS,
    )


def estimate_one_pass(parameters: Any, config: Mapping[str, Any]) -> Estimate:
    """A stage that scores in one forward pass, of `samples`, `seqlen` and `batch`."""
    given = (parameters.samples, parameters.seqlen, parameters.batch)
    return estimate_forward(config, Tokens.of(*given, Shapes.of(config)))


def estimate_cuts(config: Mapping[str, Any], tokens: Tokens, cuts: Sequence[Cut]) -> Estimate:
    """A walk for the whole model and without each cut, whose hidden states are held together."""
    shapes = Shapes.of(config)
    passes, heads = layer_runs(shapes.layers, cuts), len(cuts) + 1
    estimate = estimate_forward(config, tokens, 0, passes, heads)
    width = shapes.hidden * shapes.item_bytes
    held = min(tokens.count, max(tokens.length, chunk_tokens(len(cuts), width)))
    return replace(estimate, memory=estimate.memory + (len(cuts) + 2) * held * width)


def estimate_copying(parameters: Any, config: Mapping[str, Any]) -> Estimate:
    """A stage that copies a part of every tensor: one tensor and what is taken of it."""
    shapes = Shapes.of(config)
    largest = max(rows * columns for rows, columns in shapes.matrices.values())
    checkpoint = shapes.parameters * shapes.item_bytes
    return Estimate(
        memory=PROCESS_BYTES + 3 * max(largest * shapes.item_bytes, 64 << 20),
        disk=checkpoint,
        seconds=15 + 3 * checkpoint / DISK_BYTES_PER_SECOND,
    )
