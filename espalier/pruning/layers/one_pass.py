"""One forward pass over the calibration tokens, a layer at a time, with something that watches.

Shapes: S samples, B samples of a batch, T tokens, H hidden.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from espalier.contract.stage import StageContext
from espalier.pruning.layers.decoder import Decoder
from espalier.pruning.layers.resume import ResumeState
from espalier.pruning.parameters import default_batch


class Observer(Protocol):
    """Measures each layer while the tokens pass."""

    def begin(self, module: nn.Module) -> None:
        """A layer comes next."""

    def see(self, inputs: Tensor, outputs: Tensor) -> None:
        """A batch has passed: hidden states [B, T, H] before and after the layer."""

    def end(self) -> dict[str, Any]:
        """What was measured of this layer, as JSON can hold it."""


def one_pass(
    context: StageContext,
    decoder: Decoder,
    input_ids: Tensor,
    batch: int | None,
    observer: Observer,
) -> list[dict[str, Any]]:
    """What `observer` measured of each layer; goes on where a killed run stopped.

    Args:
        context: its scratch folder keeps the state.
        decoder: the model.
        input_ids: int64 [S, T].
        batch: samples at a time; None chooses by length. Decides speed, not the result.
        observer: what watches.
    """
    context.scratch.mkdir(parents=True, exist_ok=True)
    state = ResumeState.load(context.scratch)
    size, count = batch or default_batch(input_ids.shape[1]), decoder.num_layers
    written: Future[None] | None = None
    with (
        torch.inference_mode(),
        decoder.computing(),
        ThreadPoolExecutor(1) as writer,
        context.progress.steps("score", count, state.next_layer) as steps,
    ):
        hidden = state.hidden if state.hidden is not None else decoder.embed(input_ids)
        for layer, module in decoder.layers(state.next_layer):
            observer.begin(module)
            if written is not None:
                written.result()  # the state being saved reads the hidden states
            for part in hidden.split(size):
                outputs = decoder.run(module, layer, part)
                observer.see(part.to(outputs.device), outputs)
                part.copy_(outputs)
            state.records.append(observer.end())
            finished = ResumeState(layer + 1, list(state.records), hidden)
            written = writer.submit(finished.save, context.scratch)
            steps.advance(layer=layer)
        if written is not None:
            written.result()
    return state.records
