"""Gradients of the loss without a model that is held: forwards, then layer by layer backwards.

    found = backward(context, decoder, ids, observer)

The inputs of every layer are kept in the scratch folder. From the last layer to the first, a layer
is taken, run again on each sample, and its weights' gradients are given to an observer and freed:
what is held is one layer, its gradients and one more set of hidden states. Each sample has its own
loss, so that squares of gradients can be had as well as their mean.

Shapes: S samples, T tokens, H hidden.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from espalier.contract.saved import note
from espalier.contract.stage import StageContext
from espalier.errors import InputError
from espalier.models.adapter import EMBEDDING, FINAL_NORM
from espalier.models.checkpoint.header import read_header
from espalier.models.checkpoint.reader import read_entry
from espalier.models.checkpoint.writer import write_safetensors
from espalier.models.decoder import Decoder, Layer
from espalier.models.finite import overflow
from espalier.pruning.layers.head_loss import HeadLoss
from espalier.pruning.parameters import default_batch

STATES, GRADIENT = "states", "gradient"


class GradientObserver(Protocol):
    """Takes in gradients of some weights, a sample at a time."""

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        """These weights come next: by their names within the layer, or in full outside layers."""

    def add(self, gradients: Mapping[str, Tensor]) -> None:
        """Of one sample's loss, the mean cross-entropy of its tokens after the first."""

    def end(self) -> dict[str, Tensor]:
        """What was made of them, as it is kept."""


@dataclass
class Gradients:
    """What was made of all gradients.

    Attributes:
        layers: for each layer what the observer's `end` gave.
        outer: the same of the embedding, the final norm and the head.
        losses: of each sample, float32 [S].
    """

    layers: list[dict[str, Tensor]]
    outer: dict[str, Tensor]
    losses: Tensor


def backward(
    context: StageContext,
    decoder: Decoder,
    input_ids: Tensor,
    observer: GradientObserver,
    *,
    outer: GradientObserver | None = None,
    batch: int | None = None,
) -> Gradients:
    """Give the observers every weight's gradients; resumes at the layer where a killed run stopped.

    Args:
        context: its scratch folder keeps the state.
        decoder: the model, in the dtype in which gradients are computed.
        input_ids: int64 [S, T].
        observer: of the layers.
        outer: of the embedding, the final norm and the head, the latter in blocks of rows; a matrix
            that is both is given once, with the sum of both gradients. None leaves them out.
        batch: samples at a time on the way forwards; None chooses by length.

    Raises:
        InputError: there are no tokens, or activations or gradients overflow.
    """
    if not input_ids.numel():
        raise InputError("there are no tokens to take gradients of; give CALIBRATION some.")
    walk = _Walk(context, decoder, input_ids)
    walk.forwards(batch or default_batch(input_ids.shape[1]))
    loss = HeadLoss(decoder, walk.states(decoder.num_layers), input_ids)
    at_norm = walk.backwards(loss, observer)
    found = {} if outer is None else walk.outer(loss, at_norm, outer)
    return Gradients(
        [walk.read(f"layer-{n}") for n in range(decoder.num_layers)], found, loss.losses
    )


@dataclass
class _Walk:
    """One way forwards and back; every file in the scratch folder is whole or absent."""

    context: StageContext
    decoder: Decoder
    input_ids: Tensor
    scratch: Path = field(init=False)

    def __post_init__(self) -> None:
        self.scratch = self.context.scratch / "backward"
        self.scratch.mkdir(parents=True, exist_ok=True)

    def states(self, layer: int) -> Tensor:
        """What the layer was given, [S, T, H]; of the layer after the last: the last's outputs."""
        return self.read(f"states-{layer}")[STATES]

    def read(self, name: str) -> dict[str, Tensor]:
        entries = read_header(self.scratch / f"{name}.safetensors")
        return {key: read_entry(entry) for key, entry in entries.items()}

    def forwards(self, batch: int) -> None:
        """Keep the inputs of every layer."""
        count = self.decoder.num_layers
        done = next(n for n in range(count + 2) if not self._has(f"states-{n}"))
        if done == 0:
            self._write("states-0", {STATES: self.decoder.embed(self.input_ids)})
            done = 1
        if done > count:
            return
        hidden = self.states(done - 1)
        with (
            torch.no_grad(),  # what it makes is used under gradients again
            self.context.progress.steps("forward", count, done - 1) as steps,
        ):
            for layer in self.decoder.layers(range(done - 1, count)):
                hidden = torch.cat([layer.run(part).cpu() for part in hidden.split(batch)])
                layer.require_finite()
                self._write(f"states-{layer.number + 1}", {STATES: hidden})
                steps.advance(layer=layer.number)

    def backwards(self, loss: HeadLoss, observer: GradientObserver) -> list[Tensor]:
        """Observe the layers from the last to the first; the final norm's gradients, [H] each."""
        count = self.decoder.num_layers
        upstream, at_norm = loss.backward()
        rest = [n for n in reversed(range(count)) if not self._has(f"layer-{n}")]
        if len(rest) < count:
            upstream = self.read(f"gradient-{len(rest)}")[GRADIENT]
        with self.context.progress.steps("backward", count, count - len(rest)) as steps:
            for layer in self.decoder.layers(rest):
                upstream, found = self._observed(layer, upstream, observer)
                self._write(f"gradient-{layer.number}", {GRADIENT: upstream})
                self._write(f"layer-{layer.number}", found)
                (self.scratch / f"gradient-{layer.number + 1}.safetensors").unlink(missing_ok=True)
                note(self.context.scratch, f"layer {layer.number} of the way back")
                steps.advance(layer=layer.number)
        return at_norm

    def _observed(
        self, layer: Layer, upstream: Tensor, observer: GradientObserver
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradient in front of the layer [S, T, H], from that behind it."""
        hidden, device = self.states(layer.number), self.decoder.device
        weights = dict(layer.module.requires_grad_().named_parameters())
        observer.begin({name: weight.detach() for name, weight in weights.items()})
        before = torch.empty_like(upstream)
        for sample in range(len(hidden)):
            states = hidden[sample : sample + 1].to(device).requires_grad_()  # [1, T, H]
            with torch.enable_grad():
                outputs = layer.attempt(states)
            behind = upstream[sample : sample + 1].to(device)
            for_states, *of_weights = torch.autograd.grad(
                outputs, (states, *weights.values()), behind
            )
            before[sample] = for_states[0].cpu()
            observer.add(dict(zip(weights, of_weights, strict=True)))
        if not torch.isfinite(before).all():
            raise InputError(overflow(f"gradients of layer {layer.number}", self.decoder.dtype))
        return before, observer.end()

    def outer(
        self, loss: HeadLoss, at_norm: list[Tensor], observer: GradientObserver
    ) -> dict[str, Tensor]:
        """Observe what lies around the layers; what `end` gives of several blocks is added up."""
        found: dict[str, Tensor] = {}
        decoder, embedded = self.decoder, self.read("gradient-0")[GRADIENT].to(self.decoder.device)
        norm = decoder.reader.read(FINAL_NORM).to(device=decoder.device, dtype=decoder.dtype)
        _add_up(
            found, _of(observer, FINAL_NORM, norm, lambda sample: at_norm[sample], len(at_norm))
        )
        tied = loss.weight_name == EMBEDDING
        for block in loss.blocks():

            def of_head(sample: int) -> Tensor:
                gradient = loss.gradient(block, sample)  # noqa: B023 - used before the next block
                if tied:
                    inside, rows = block.own(self.input_ids[sample].to(gradient.device))  # noqa: B023
                    gradient.index_add_(0, rows, embedded[sample][inside])
                return gradient

            _add_up(found, _of(observer, loss.weight_name, block.weight, of_head, len(at_norm)))
        if not tied:
            ids, places = torch.unique(self.input_ids, return_inverse=True)
            rows = decoder.reader.read_rows(EMBEDDING, ids).to(device=decoder.device)
            places = places.to(decoder.device)

            def of_embedding(sample: int) -> Tensor:
                gradient = torch.zeros_like(rows, dtype=decoder.dtype)
                return gradient.index_add_(0, places[sample], embedded[sample])

            rows = rows.to(decoder.dtype)
            _add_up(found, _of(observer, EMBEDDING, rows, of_embedding, len(at_norm)))
        return found

    def _has(self, name: str) -> bool:
        return (self.scratch / f"{name}.safetensors").is_file()

    def _write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        write_safetensors(self.scratch / f"{name}.safetensors", dict(tensors))


def _of(
    observer: GradientObserver,
    name: str,
    weight: Tensor,
    gradient: Callable[[int], Tensor],
    samples: int,
) -> dict[str, Tensor]:
    observer.begin({name: weight})
    for sample in range(samples):
        observer.add({name: gradient(sample)})
    return observer.end()


def _add_up(found: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    for key, value in more.items():
        found[key] = found[key] + value if key in found else value
