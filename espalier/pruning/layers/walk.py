"""The walk: take a layer, let a method work on it, pass the tokens on, write it, free it.

    records = walk(context, decoder, visitor, input_ids=ids, output=output)

What a method does with a layer is its visitor's: it may observe the tokens that reach the layer,
change the layer in place or put another one in its stead, and say which tensors of it are stored.
The walk reads the next layer ahead, gives the tokens to it, writes in the background and keeps
what a killed run needs to go on with the same bytes.

Shapes: S samples, B samples of a batch, T tokens, H hidden.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from espalier.contract.saved import note
from espalier.contract.stage import StageContext
from espalier.errors import InputError
from espalier.models.checkpoint.writer import CheckpointWriter, Content
from espalier.models.decoder import Decoder, Layer
from espalier.pruning.layers.resume import ResumeState
from espalier.pruning.layers.taps import Tap, require_fed, tapped
from espalier.pruning.parameters import default_batch


class LayerStep:
    """One layer of a walk, and the tokens that have reached it.

    Attributes:
        hidden: what the layer is given, [S, T, H] on the host; None where no tokens pass.
        contents: what is stored of the layer, by the tensor's full name: at first the parent's
            tensors as they are. A method replaces, adds and removes.
        carried: tensors from the layer before, by name, that a resumed run has as well; what is put
            in their stead goes on to the next one. None may be changed in place: it may be being
            saved.
        advanced: whether `hidden` is already what comes out of the layer.
    """

    def __init__(
        self,
        layer: Layer,
        hidden: Tensor | None,
        batch: int,
        contents: dict[str, Content],
        *,
        carried: dict[str, Tensor],
        before_change: Callable[[], None],
    ) -> None:
        self._layer, self._batch, self._before_change = layer, batch, before_change
        self.hidden, self.contents, self.carried = hidden, contents, carried
        self.advanced = False

    @property
    def number(self) -> int:
        return self._layer.number

    @property
    def module(self) -> nn.Module:
        """The stock layer; one that is set in its stead takes the tokens from then on."""
        return self._layer.module

    @module.setter
    def module(self, module: nn.Module) -> None:
        self._layer.module = module

    def name(self, within: str) -> str:
        """The full name of a tensor of this layer."""
        return f"model.layers.{self.number}.{within}"

    def observe(self, taps: Sequence[Tap]) -> None:
        """Pass the tokens through the layer as it is now; they stay before it."""
        for _ in self._passes(taps, dropped=True):
            pass

    def advance(self, taps: Sequence[Tap] = ()) -> None:
        """Pass the tokens on: `hidden` becomes what the layer, as it is now, gives."""
        self._before_change()  # what is being saved reads the hidden states
        self._layer.read_next()
        for part, outputs in self._passes(taps, dropped=False):
            part.copy_(outputs)
        self.advanced = True

    def _passes(self, taps: Sequence[Tap], *, dropped: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches [B, T, H] before the layer and after it.

        Raises:
            InputError: its activations overflow, or a tap was not given every batch.
        """
        if self.hidden is None:
            return
        batches, before = self.hidden.split(self._batch), [tap.fed for tap in taps]
        with tapped(self.module, taps, dropped=dropped):
            for part in batches:
                yield part, self._layer.run(part)
        self._layer.require_finite()
        for tap, count in zip(taps, before, strict=True):
            what = f"{tap.part or 'the whole'} of layer {self.number}"
            require_fed(tap.fed - count, what, len(batches))


class Visitor(Protocol):
    """What a method does with each layer."""

    def visit(self, step: LayerStep) -> dict[str, Any]:
        """Work on a layer.

        Returns:
            what is known of it afterwards, as JSON can hold it. A run that resumes after a kill
            has the records of the layers done, what the step carries, and nothing else.
        """


def walk(
    context: StageContext,
    decoder: Decoder,
    visitor: Visitor,
    *,
    title: str,
    input_ids: Tensor | None = None,
    batch: int | None = None,
    output: CheckpointWriter | None = None,
    with_first: Sequence[str] = (),
    shown: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Visit each layer in order; resumes where a killed run stopped.

    Args:
        context: its scratch folder keeps the state.
        decoder: the model.
        visitor: what is done with each layer.
        title: of the progress line.
        input_ids: tokens int64 [S, T] that pass the layers; None where none are needed.
        batch: samples at a time; None chooses by length. Decides speed, not the result.
        output: takes each finished layer; None keeps the records alone.
        with_first: tensors outside the layers that the visitor has written with the first one.
        shown: keys of a record that the progress line shows.

    Returns:
        each layer's record.

    Raises:
        InputError: there are no tokens, they make activations overflow, or something of a layer
            that was to be observed never saw them.
    """
    if input_ids is not None and not input_ids.numel():
        raise InputError("there are no tokens to pass through the layers; give CALIBRATION some.")
    context.scratch.mkdir(parents=True, exist_ok=True)
    state, count = _resumed(context, output, with_first), decoder.num_layers
    if input_ids is None:
        size = 1
    else:
        size = batch or default_batch(input_ids.shape[1])
        if state.hidden is None and state.next_layer < count:
            state.hidden = decoder.embed(input_ids)
    with (
        torch.inference_mode(),
        _Background() as background,
        context.progress.steps(title, count, state.next_layer) as steps,
    ):
        rest = range(state.next_layer, count)
        for layer in decoder.layers(rest, ahead=input_ids is None):
            contents = _stored(decoder, layer.number)
            carried, wait = dict(state.carried), background.wait
            step = LayerStep(
                layer, state.hidden, size, contents, carried=carried, before_change=wait
            )
            record = visitor.visit(step)
            last = layer.number + 1 == count
            if not (last or step.advanced):
                step.advance()
            state.records.append(record)
            hidden = None if last else step.hidden
            after = ResumeState(layer.number + 1, list(state.records), hidden, step.carried)
            state.hidden, state.carried = hidden, step.carried
            background.start(partial(_finish, context, output, step.contents, after))
            steps.advance(layer=layer.number, **{key: record[key] for key in shown})
            del step, layer
    return state.records


def _resumed(
    context: StageContext, output: CheckpointWriter | None, with_first: Sequence[str]
) -> ResumeState:
    """Where a killed run stopped, if all that it says is done is on the disk."""
    state = ResumeState.load(context.scratch)
    if output is None:
        return state
    missing = output.specs.keys() - output.written
    prefixes = tuple(f"model.layers.{layer}." for layer in range(state.next_layer))
    done = (*prefixes, *with_first) if prefixes else ()
    return ResumeState() if any(name.startswith(done) for name in missing) else state


def _stored(decoder: Decoder, layer: int) -> dict[str, Content]:
    names = decoder.architecture.layer_tensor_names(layer)
    return {name: decoder.reader.entries[name] for name in names}


def _finish(
    context: StageContext,
    output: CheckpointWriter | None,
    contents: Mapping[str, Content],
    state: ResumeState,
) -> None:
    """Write a layer, then say that it is written."""
    if output is not None:
        output.write(contents)
    state.save(context.scratch)
    note(context.scratch, f"layer {state.next_layer}")


class _Background:
    """Does one thing at a time beside the walk, and has ended it when the context ends."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1)
        self._work: Future[None] | None = None

    def __enter__(self) -> "_Background":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._worker.shutdown()

    def start(self, work: Callable[[], None]) -> None:
        """Begin once the work before is done."""
        self.wait()
        self._work = self._worker.submit(work)

    def wait(self) -> None:
        """Until nothing is being done.

        Raises:
            EspalierError: what was done failed.
        """
        if self._work is not None:
            work, self._work = self._work, None
            work.result()
