"""One basis for the whole stream: what is left is a smaller stock model.

Every site of the dense model has the same say in it: of each token the state as the norms give it
to the matrices, x / rms(x). The directions that are left are the new model's channels. A stock norm
divides by their number d where the parent's D is meant:

    x / sqrt(sum(x^2) / D + eps) = sqrt(D / d) x / sqrt(sum(x^2) / d + eps D / d)

so eps grows in config.json and the factor is the gain of every norm; what that loses by rounding,
the matrices that read it make up for.

Shapes: D channels, d of them left, V vocabulary.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.pruned import Uniform
from espalier.contract.stage import StageContext
from espalier.models.adapter import EMBEDDING, FINAL_NORM, HEAD, Architecture
from espalier.models.axes import axes_of
from espalier.models.checkpoint.companions import CONFIG, copy_companions
from espalier.models.checkpoint.writer import Computed, Content
from espalier.models.content import config_as_stored
from espalier.models.decoder import Decoder
from espalier.models.shapes import Shapes
from espalier.models.sliced import PlainNorm
from espalier.models.sliced_form import (
    EPS,
    NORMS,
    READS_MIDDLE,
    READS_STREAM,
    WRITES_MIDDLE,
    WRITES_STREAM,
)
from espalier.pruning.layers.resume import ResumeState
from espalier.pruning.layers.taps import inputs_of, outputs_of
from espalier.pruning.layers.walk import LayerStep, walk
from espalier.pruning.structured.record import uniform
from espalier.pruning.structured.restructure import Selection, check_stock_shapes, write_units
from espalier.pruning.structured.target import sized
from methods.slicegpt.algorithm import (
    Basis,
    SecondMoment,
    principal_basis,
    rotate_inputs,
    rotate_outputs,
)
from methods.slicegpt.cut import Cut

MOMENT = "moment"
"""What a step carries: the sum over the sites so far, float64 [D, D]."""


def target_of(cut: Cut) -> Shapes:
    """The shapes of what is left: fewer channels, and a head of its own."""
    return replace(cut.shapes, hidden=cut.kept, tied=False)


def slice_shared(
    context: StageContext, decoder: Decoder, cut: Cut, input_ids: Tensor, batch: int | None
) -> Basis:
    """Write the input `model` with fewer channels, as a stock model; resumes after a kill.

    Returns:
        the one basis.

    Raises:
        InputError: stock transformers has no such shape, or activations overflow.
        EnvironmentFailure: the disk cannot be written.
    """
    parent = context.inputs["model"]
    config = sized(config_as_stored(parent), target_of(cut)) | {
        EPS: cut.eps * cut.shapes.hidden / cut.kept,
        "tie_word_embeddings": False,
    }
    stock, shapes = Architecture(config).expected_shapes(), _shapes(decoder, cut)
    check_stock_shapes(config, stock, shapes)
    visitor = _Moments(cut, context.device)
    walk(context, decoder, visitor, title="calibrate", input_ids=input_ids, batch=batch)
    moment = ResumeState.load(context.scratch).carried[MOMENT]
    basis = principal_basis(moment.to(context.device))
    rotated = _Rotated(decoder, cut, shapes, cut.directions(basis, 0))
    write_units(context.output, rotated.units(), stock, context.progress)
    copy_companions(parent, context.output)
    write_text(context.output / CONFIG, to_json(config, indent=2) + "\n")
    return basis


def rotated_account(cut: Cut) -> Uniform:
    """What the manifest says of it."""
    kept = Selection(range(cut.shapes.layers))
    return uniform(cut.shapes, target_of(cut), kept).model_copy(update={"rotated": True})


class _Moments:
    """Sums the normed states' second moments over all sites of the dense model."""

    def __init__(self, cut: Cut, device: str) -> None:
        self._width, self._device = cut.shapes.hidden, device
        self._norm = PlainNorm(cut.shapes.hidden, cut.eps)

    def visit(self, step: LayerStep) -> dict[str, Any]:
        moment = SecondMoment(self._width, self._device)

        def add(hidden: Tensor) -> None:
            moment.add(self._norm(hidden))

        taps = [inputs_of(NORMS[1], add), outputs_of("", add)]
        if not step.number:
            taps.append(inputs_of(NORMS[0], add))  # the embeddings
        step.advance(taps)
        before = step.carried.get(MOMENT)
        total = moment.matrix.cpu()
        step.carried = {MOMENT: total if before is None else before + total}
        return {"layer": step.number, "states": moment.tokens}


class _Rotated:
    """The new model's tensors, each computed when it is written."""

    def __init__(
        self, decoder: Decoder, cut: Cut, shapes: Mapping[str, tuple[int, ...]], vectors: Tensor
    ) -> None:
        self._decoder, self._shapes, self._vectors = decoder, shapes, vectors
        self._layers = cut.shapes.layers
        wanted = math.sqrt(cut.shapes.hidden / cut.kept)
        self._gain = torch.full((cut.kept,), wanted, dtype=decoder.dtype)
        self._rest = wanted / float(self._gain[0])

    def units(self) -> list[dict[str, Content]]:
        """What is outside the layers, then layer by layer."""
        head = self._decoder.architecture.head_name(self._decoder.reader)
        outside: dict[str, Content] = {
            EMBEDDING: self._reads(EMBEDDING, EMBEDDING, None),
            FINAL_NORM: self._gain,
            HEAD: self._reads(HEAD, head, FINAL_NORM),
        }
        return [outside, *(self._layer(number) for number in range(self._layers))]

    def _layer(self, number: int) -> dict[str, Content]:
        prefix = f"model.layers.{number}."
        names = self._decoder.architecture.layer_tensor_names(number)
        unit: dict[str, Content] = {name: self._decoder.reader.entries[name] for name in names}
        for norm, readers in zip(NORMS, (READS_STREAM, READS_MIDDLE), strict=True):
            unit[f"{prefix}{norm}.weight"] = self._gain
            for name in readers:
                full = f"{prefix}{name}.weight"
                unit[full] = self._reads(full, full, f"{prefix}{norm}.weight")
        for name in (WRITES_MIDDLE, WRITES_STREAM):
            for full in (f"{prefix}{name}.weight", f"{prefix}{name}.bias"):
                if full in unit:
                    unit[full] = self._writes(full)
        return unit

    def _reads(self, name: str, stored: str, norm: str | None) -> Computed:
        """A matrix [C, D] that reads the stream, or embeds into it, with the gain of its norm."""
        reader, dtype = self._decoder.reader, self._decoder.dtype

        def blocks() -> Iterator[Tensor]:
            gain = None if norm is None else reader.read(norm).double() * self._rest
            for block in reader.blocks(stored):
                yield rotate_inputs(block.to(self._vectors.device), self._vectors, gain).to(dtype)

        return Computed(dtype, self._shapes[name], blocks)

    def _writes(self, name: str) -> Computed:
        """A matrix [D, C] that writes to the stream, or its bias [D]."""
        reader, dtype = self._decoder.reader, self._decoder.dtype

        def blocks() -> Iterator[Tensor]:
            whole = reader.read(name).to(self._vectors.device)
            yield rotate_outputs(whole, self._vectors).to(dtype)

        return Computed(dtype, self._shapes[name], blocks)


def _shapes(decoder: Decoder, cut: Cut) -> dict[str, tuple[int, ...]]:
    """Of every tensor of the new model, which has a head of its own."""
    return {
        name: tuple(
            cut.kept if axis == "hidden" else size
            for axis, size in zip(axes_of(name), shape, strict=True)
        )
        for name, shape in decoder.architecture.expected_shapes().items()
    }
