"""A checkpoint's layers one after the other, the next one read while one runs.

Shapes: B samples, T tokens, H hidden, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from espalier.models.adapter import Architecture, Positions
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.device import require_device
from espalier.models.products import choose_products, products

TOKENS_AT_ONCE = 2048
"""Rows of normed hidden states that meet a block of the head: logits of 64 MiB and less."""


class Decoder:
    """Runs a model forwards without holding it.

    Attributes:
        architecture: its shapes and stock layers.
        kernel: how 16-bit products are computed (see products).

    Raises:
        InputError: the checkpoint does not fit its config.
        EnvironmentFailure: cuda is asked for and absent.
    """

    def __init__(self, model: Path, device: str) -> None:
        require_device(device)
        self.architecture = Architecture.of(model)
        self._reader = CheckpointReader(model)
        self.architecture.check(self._reader)
        self._dtype = self.architecture.dtype(self._reader)
        self._device = device
        self.kernel = choose_products(self._dtype, device)
        self._positions = cache(self._make_positions)

    @property
    def num_layers(self) -> int:
        return self.architecture.num_layers

    def layers(self, start: int = 0) -> Iterator[tuple[int, nn.Module]]:
        """Each layer from `start` on, with its number."""
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self._load, start)
            for layer in range(start, self.num_layers):
                module = coming.result()
                if layer + 1 < self.num_layers:
                    coming = ahead.submit(self._load, layer + 1)
                yield layer, module
                del module

    def embed(self, input_ids: Tensor) -> Tensor:
        """Hidden states [B, T, H] of ids int64 [B, T], kept on the host."""
        return self.architecture.embed(self._reader, input_ids, self._dtype)

    def run(self, module: nn.Module, layer: int, hidden: Tensor) -> Tensor:
        """Hidden states [B, T, H] through one layer: [B, T, H] on the device."""
        moved = hidden.to(self._device)
        return self.architecture.run_layer(module, layer, moved, self._positions(hidden.shape[1]))

    def computing(self) -> AbstractContextManager[Any]:
        """The context to run layers in: this processor's kernels."""
        return products(self.kernel)

    def normed(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., H] after the final norm, kept on the host."""
        parts = hidden.split(TOKENS_AT_ONCE)
        return torch.cat([self._norm(part.to(self._device)).cpu() for part in parts])

    def log_probabilities(
        self, normed: Sequence[Tensor], targets: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Of the target tokens, by each of several streams; the head is read once for all of them.

        Args:
            normed: hidden states [N, H] after the final norm, one for each stream.
            targets: int64 [N].

        Returns:
            for each stream log p(target), float32 [N], and whether no token is more probable,
            bool [N].
        """
        sums = [_Softmax(targets) for _ in normed]
        start = 0
        with self.computing():
            for block in self.architecture.head_blocks(self._reader):
                weight = block.to(device=self._device, dtype=self._dtype)
                for stream, running in zip(normed, sums, strict=True):
                    for first in range(0, len(targets), TOKENS_AT_ONCE):
                        rows = slice(first, first + TOKENS_AT_ONCE)
                        logits = nn.functional.linear(stream[rows].to(self._device), weight)
                        running.add(rows, start, logits.float().cpu())
                start += len(block)
        return [running.result() for running in sums]

    def _load(self, layer: int) -> nn.Module:
        return self.architecture.load_layer(self._reader, layer, self._dtype, self._device)

    @cached_property
    def _norm(self) -> nn.Module:
        return self.architecture.final_norm(self._reader, self._dtype, self._device)

    def _make_positions(self, tokens: int) -> Positions:
        return self.architecture.positions(tokens, self._dtype, self._device)


class _Softmax:
    """log softmax of the targets, from logits that come in blocks of the vocabulary."""

    def __init__(self, targets: Tensor) -> None:
        count = len(targets)
        self._targets = targets
        self._log_sum = torch.full((count,), -torch.inf)
        self._largest = torch.full((count,), -torch.inf)
        self._own = torch.full((count,), -torch.inf)

    def add(self, rows: slice, start: int, logits: Tensor) -> None:
        """Take in logits float32 [n, v] of tokens `start` to `start` + v for some rows."""
        self._log_sum[rows] = torch.logaddexp(self._log_sum[rows], logits.logsumexp(dim=-1))
        self._largest[rows] = torch.maximum(self._largest[rows], logits.amax(dim=-1))
        places = self._targets[rows] - start  # [n]
        inside = (places >= 0) & (places < logits.shape[1])
        own = logits.gather(1, places.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
        self._own[rows] = torch.where(inside, own, self._own[rows])

    def result(self) -> tuple[Tensor, Tensor]:
        return self._own - self._log_sum, self._own >= self._largest
