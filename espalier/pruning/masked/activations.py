"""Calibration tokens on their way through one decoder layer.

Shapes: S samples, B samples of a batch, T tokens, H hidden features, C features of an input.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from espalier.models.adapter import Architecture, Positions
from espalier.models.products import products
from espalier.pruning.masked.statistics import Statistic


class LayerPasses:
    """Runs the calibration samples through layers, a batch of samples at a time."""

    def __init__(
        self,
        architecture: Architecture,
        positions: Positions,
        kernel: str,
        batch: int,
        device: str,
    ) -> None:
        self._architecture = architecture
        self._positions = positions
        self._kernel = kernel
        self._batch = batch
        self._device = device

    def observe(
        self, module: nn.Module, layer: int, hidden: Tensor, statistics: Mapping[str, Statistic]
    ) -> None:
        """Feed `statistics` with the inputs that the matrices they are named for receive.

        Hidden states [S, T, H] stay as they are, so the last matrix's product is left out.
        """
        last = self._architecture.input_groups[-1][0]
        final = module.get_submodule(last)
        hooks = [
            module.get_submodule(name).register_forward_pre_hook(_feed(statistic))
            for name, statistic in statistics.items()
            if name != last
        ]
        _replace(module, last, _Sink(final.out_features, statistics[last]))
        try:
            with products(self._kernel):
                for batch in hidden.split(self._batch):
                    self._run(module, layer, batch)
        finally:
            _replace(module, last, final)
            for hook in hooks:
                hook.remove()

    def advance(self, module: nn.Module, layer: int, hidden: Tensor) -> None:
        """Replace hidden states [S, T, H] by the layer's outputs, in place."""
        with products(self._kernel):
            for batch in hidden.split(self._batch):
                batch.copy_(self._run(module, layer, batch))

    def _run(self, module: nn.Module, layer: int, batch: Tensor) -> Tensor:
        moved = batch.to(self._device)
        return self._architecture.run_layer(module, layer, moved, self._positions)


class _Sink(nn.Module):  # type: ignore[misc]
    """Stands for a layer's last matrix: takes its input in and returns zeros."""

    def __init__(self, out_features: int, statistic: Statistic) -> None:
        super().__init__()
        self._out_features = out_features
        self._statistic = statistic

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs [B, T, C] to zeros [B, T, H] that take no memory."""
        self._statistic.add(inputs)
        return inputs.new_zeros(1).expand(*inputs.shape[:-1], self._out_features)


def _feed(statistic: Statistic) -> Any:
    def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        statistic.add(arguments[0])

    return hook


def _replace(module: nn.Module, name: str, replacement: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, replacement)


def positions_for(architecture: Architecture, hidden: Tensor, device: str) -> Positions:
    """Positions of hidden states [S, T, H]."""
    with torch.inference_mode():
        return architecture.positions(hidden.shape[1], hidden.dtype, device)
