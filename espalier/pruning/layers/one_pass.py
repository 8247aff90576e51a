"""One forward pass over tokens, a layer at a time, with something that measures each layer."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from espalier.contract.stage import StageContext
from espalier.models.decoder import Decoder
from espalier.pruning.layers.taps import Tap
from espalier.pruning.layers.walk import LayerStep, walk


class Observer(Protocol):
    """Measures each layer while the tokens pass."""

    def begin(self, module: nn.Module) -> Sequence[Tap]:
        """A layer comes next: where to look at it."""

    def end(self) -> dict[str, Any]:
        """What was measured of this layer, as JSON can hold it."""


def one_pass(
    context: StageContext,
    decoder: Decoder,
    input_ids: Tensor,
    batch: int | None,
    observer: Observer,
) -> list[dict[str, Any]]:
    """What `observer` measured of each layer; resumes where a killed run stopped.

    Args:
        context: its scratch folder keeps the state.
        decoder: the model.
        input_ids: int64 [S samples, T tokens].
        batch: samples at a time; None chooses by length. Decides speed, not the result.
        observer: what watches.
    """
    visitor = _Watching(observer)
    return walk(context, decoder, visitor, title="score", input_ids=input_ids, batch=batch)


class _Watching:
    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def visit(self, step: LayerStep) -> dict[str, Any]:
        step.advance(self._observer.begin(step.module))
        return self._observer.end()
