"""A model that runs forwards without being held: one layer at a time, the next one read meanwhile.

Every walk through a model takes its layers from here: masked pruning, scores, the search for layers
to drop, the gates and the comparison of logits.

Shapes: B samples, T tokens, H hidden, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from espalier.models.adapter import Architecture, Positions
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.device import require_device
from espalier.models.finite import Extremes
from espalier.models.products import choose_products, products

TOKENS_AT_ONCE = 2048
"""Rows of normed hidden states that are worked on at a time, at most."""
LOGITS_AT_ONCE = 1 << 24
"""Logits that are held at a time: 64 MiB in float32."""


@dataclass
class Layer:
    """One decoder layer in hand.

    Attributes:
        number: its place in the model.
        module: the stock layer with its weights; another one may take its place.
        read_next: has the layer after it read in the background; asking twice reads it once.
    """

    number: int
    module: nn.Module
    read_next: Callable[[], None]
    _run: Callable[[nn.Module, int, Tensor], Tensor]
    _extremes: Extremes = field(default_factory=Extremes)

    def run(self, hidden: Tensor) -> Tensor:
        """Hidden states [B, T, H] through the layer: [B, T, H] on the device.

        They are looked at by `require_finite`, at the latest when the next layer is asked for.
        """
        outputs = self.attempt(hidden)
        self._extremes.add(outputs)
        return outputs

    def attempt(self, hidden: Tensor) -> Tensor:
        """As `run`, where NaN and infinities are an answer like another."""
        return self._run(self.module, self.number, hidden)

    def require_finite(self) -> None:
        """Wait for the device, and see that what was run since the last call is finite.

        Raises:
            InputError: naming the layer and the dtype that its activations overflow.
        """
        self._extremes.require_finite(self.number)


class Decoder:
    """The layers of a checkpoint, and what lies around them.

    Attributes:
        architecture: its shapes and stock layers.
        reader: its tensors.
        dtype: in which everything is computed.
        device: `cpu` or `cuda`.
        kernel: how 16-bit products are computed (see products).

    Raises:
        InputError: the checkpoint does not fit its config.
        EnvironmentFailure: cuda is asked for and absent.
    """

    def __init__(
        self,
        model: Path,
        device: str = "cpu",
        *,
        dtype: Any = None,
        reader: CheckpointReader | None = None,
        position_ids: Tensor | None = None,
    ) -> None:
        """Open a checkpoint.

        Args:
            model: a Hugging Face directory.
            device: where layers run.
            dtype: default the checkpoint's own.
            reader: default a plain one of `model`.
            position_ids: int64 [T] of all sequences; default 0 to T - 1.
        """
        require_device(device)
        self.architecture = Architecture.of(model)
        self.reader = reader or CheckpointReader(model)
        self.architecture.check(self.reader)
        self.dtype = dtype or self.architecture.dtype(self.reader)
        self.device = device
        self.kernel = choose_products(self.dtype, device)
        self._position_ids = position_ids
        self._positions = cache(self._make_positions)

    @property
    def num_layers(self) -> int:
        return self.architecture.num_layers

    def layers(
        self, numbers: Sequence[int] | None = None, *, ahead: bool = True
    ) -> Iterator[Layer]:
        """The layers of these numbers in this order, all by default.

        The next one is read as soon as one is handed out; with `ahead` False when `read_next` is
        called, or else when its turn comes.

        Raises:
            InputError: what a layer has run came out as NaN or infinite.
        """
        order = range(self.num_layers) if numbers is None else numbers
        with ThreadPoolExecutor(1) as reading:
            coming: dict[int, Future[nn.Module]] = {}

            def ask(turn: int) -> None:
                if turn < len(order) and turn not in coming:
                    coming[turn] = reading.submit(self._load, order[turn])

            for turn, number in enumerate(order):
                ask(turn)
                # Nothing here holds the module while the layer is worked on.
                layer = Layer(number, coming[turn].result(), partial(ask, turn + 1), self._run)
                del coming[turn]
                if ahead:
                    layer.read_next()
                yield layer
                layer.require_finite()
                del layer

    def embed(self, input_ids: Tensor) -> Tensor:
        """Hidden states [B, T, H] of ids int64 [B, T], kept on the host."""
        return self.architecture.embed(self.reader, input_ids, self.dtype)

    def normed(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., H] after the final norm, kept on the host."""
        parts = hidden.split(TOKENS_AT_ONCE)
        return torch.cat([self._norm(part.to(self.device)).cpu() for part in parts])

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [B, T, V] of the last layer's outputs [B, T, H]; the head is read in blocks."""
        with products(self.kernel):
            return self.architecture.logits(self.reader, self.normed(hidden))

    def log_probabilities(
        self, normed: Sequence[Tensor], targets: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Of the target tokens, by each of several streams; the head is read once for all of them.

        Logits never leave the device: what is held there beside the streams is a block of the head
        and at most LOGITS_AT_ONCE logits.

        Args:
            normed: hidden states [N, H] after the final norm, one for each stream.
            targets: int64 [N].

        Returns:
            for each stream log p(target), float32 [N], and whether no token is more probable,
            bool [N], on the host.
        """
        streams = [stream.to(self.device) for stream in normed]
        sums = [_Softmax(targets.to(self.device)) for _ in normed]
        start = 0
        with products(self.kernel):
            for block in self.architecture.head_blocks(self.reader):
                weight = block.to(device=self.device, dtype=self.dtype)
                count = max(1, min(TOKENS_AT_ONCE, LOGITS_AT_ONCE // len(block)))
                for stream, running in zip(streams, sums, strict=True):
                    for first in range(0, len(targets), count):
                        rows = slice(first, first + count)
                        logits = nn.functional.linear(stream[rows], weight)
                        running.add(rows, start, logits.float())
                start += len(block)
        return [running.result() for running in sums]

    def _run(self, module: nn.Module, number: int, hidden: Tensor) -> Tensor:
        """Every hidden state of every walk comes out of here."""
        moved = hidden.to(self.device)
        positions = self._positions(hidden.shape[1])
        with products(self.kernel):
            return self.architecture.run_layer(module, number, moved, positions)

    def _load(self, layer: int) -> nn.Module:
        return self.architecture.load_layer(self.reader, layer, self.dtype, self.device)

    @cached_property
    def _norm(self) -> nn.Module:
        return self.architecture.final_norm(self.reader, self.dtype, self.device)

    def _make_positions(self, tokens: int) -> Positions:
        ids = None if self._position_ids is None else self._position_ids[None]
        return self.architecture.positions(tokens, self.dtype, self.device, ids=ids)


class _Softmax:
    """log softmax of the targets, from logits that come in blocks of the vocabulary.

    All stays on the device of the targets until the result is asked for.
    """

    def __init__(self, targets: Tensor) -> None:
        self._targets = targets
        nothing = torch.full(targets.shape, -torch.inf, device=targets.device)
        self._log_sum, self._largest, self._own = nothing, nothing.clone(), nothing.clone()

    def add(self, rows: slice, start: int, logits: Tensor) -> None:
        """Take in logits float32 [n, v] of tokens `start` to `start` + v for some rows."""
        self._log_sum[rows] = torch.logaddexp(self._log_sum[rows], logits.logsumexp(dim=-1))
        self._largest[rows] = torch.maximum(self._largest[rows], logits.amax(dim=-1))
        places = self._targets[rows] - start  # [n]
        inside = (places >= 0) & (places < logits.shape[1])
        own = logits.gather(1, places.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
        self._own[rows] = torch.where(inside, own, self._own[rows])

    def result(self) -> tuple[Tensor, Tensor]:
        return (self._own - self._log_sum).cpu(), (self._own >= self._largest).cpu()
