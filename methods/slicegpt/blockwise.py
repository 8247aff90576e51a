"""SliceGPT as it was published: a basis for every block, found on what is already sliced below it.

The tokens are held in the parent's basis, in which the next site's second moment is taken before
it is sliced. Each half of a layer takes of them the directions that are left, reads those with its
sliced matrices, and gives its output in the parent's basis again: one pass through every layer.

Shapes: S samples, T tokens, B samples of a batch, D channels, d of them left.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import linear

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.pruned import Foreign
from espalier.contract.stage import StageContext
from espalier.models.adapter import EMBEDDING, FINAL_NORM, HEAD
from espalier.models.checkpoint.companions import CONFIG, copy_companions
from espalier.models.checkpoint.header import TensorSpec
from espalier.models.checkpoint.locate import locate
from espalier.models.checkpoint.writer import NAMES, CheckpointWriter, Computed
from espalier.models.content import config_as_stored
from espalier.models.decoder import Decoder
from espalier.models.sliced import PlainNorm
from espalier.models.sliced_form import (
    ATTENTION,
    FFN,
    NORMS,
    READS_MIDDLE,
    READS_STREAM,
    SLICED,
    WRITES_MIDDLE,
    WRITES_STREAM,
    SlicedForm,
    sliced_config,
    sliced_shapes,
)
from espalier.pruning.layers.resume import ResumeState
from espalier.pruning.layers.taps import outputs_of
from espalier.pruning.layers.walk import LayerStep, walk
from espalier.pruning.structured.record import sizes_of
from methods.slicegpt.algorithm import (
    Basis,
    SecondMoment,
    centred,
    principal_basis,
    rotate_inputs,
    rotate_outputs,
    shortcut,
)
from methods.slicegpt.cut import Cut

STREAM = "stream"
"""What a step carries: the directions that the next layer's inputs keep, float64 [D, d]."""


def slice_blockwise(
    context: StageContext, decoder: Decoder, cut: Cut, input_ids: Tensor, batch: int | None
) -> list[dict[str, Any]]:
    """Write the input `model`, sliced, in the form `espalier-sliced`; resumes after a kill.

    Returns:
        of each layer what its sites' bases are (see `Basis.record`), by the site's name.

    Raises:
        InputError: activations overflow.
        EnvironmentFailure: the disk cannot be written.
    """
    parent, reader = context.inputs["model"], decoder.reader
    config = sliced_config(config_as_stored(parent), cut.kept, cut.eps)
    form = SlicedForm.of(config)
    output = CheckpointWriter(context.output, _specs(decoder, form), resume=True)
    visitor = _Slicing(cut, form, decoder, context.device)
    records = walk(
        context,
        decoder,
        visitor,
        title="slice",
        input_ids=input_ids,
        batch=batch,
        output=output,
        with_first=(EMBEDDING,),
        shown=("discarded",),
    )
    last = ResumeState.load(context.scratch).carried[STREAM]  # [D, D]
    gain, blocks = reader.read(FINAL_NORM), decoder.architecture.head_blocks
    output.write({HEAD: visitor.rotated(HEAD, last, lambda: blocks(reader), gain)})
    output.finish()
    copy_companions(parent, context.output)
    write_text(context.output / CONFIG, to_json(config, indent=2) + "\n")
    return records


def sliced_account(directory: Path, cut: Cut) -> Foreign:
    """What the manifest of a written checkpoint says of it."""
    entries = locate(directory).values()
    matrices = sum(math.prod(entry.shape) for entry in entries if len(entry.shape) > 1)
    return Foreign(
        form=SLICED,
        description="another basis of the residual stream at every block",
        image="eval",
        achieved=1 - matrices / cut.shapes.parameters,
        facts={
            "before": sizes_of(cut.shapes).model_dump(),
            "channels": cut.kept,
            "channels_after_last_layer": cut.shapes.hidden,
            "eps": cut.eps,
            "embeddings_centred": cut.centred,
        },
    )


class _Slicing:
    """Slices each layer between the bases that the tokens have before, within and after it."""

    def __init__(self, cut: Cut, form: SlicedForm, decoder: Decoder, device: str) -> None:
        self._cut, self._form, self._decoder, self._device = cut, form, decoder, device
        self._norm = PlainNorm(cut.shapes.hidden, cut.eps)

    def visit(self, step: LayerStep) -> dict[str, Any]:
        layer, sites, site = step.module, dict[str, Basis](), 2 * step.number
        if not step.number:
            sites["embeddings"] = self._begin(step)
        before = step.carried[STREAM].to(self._device)  # [D, d]
        attention: Any = layer.get_submodule("self_attn")
        self._narrow(layer, READS_STREAM, layer.get_submodule(NORMS[0]).weight, before)
        sites["before_mlp"] = self._pass(step, before, lambda x, **given: attention(x, **given)[0])
        middle = self._cut.directions(sites["before_mlp"], site + 1)
        mlp = layer.get_submodule("mlp")
        self._narrow(layer, READS_MIDDLE, layer.get_submodule(NORMS[1]).weight, middle)
        sites["output"] = self._pass(step, middle, lambda x, **given: mlp(x))
        left = self._form.widths(step.number).after
        after = self._cut.directions(sites["output"], site + 2, left)
        self._store(step, layer, before, middle, after)
        step.carried = {STREAM: after.cpu()}
        records = {name: basis.record(self._cut.kept) for name, basis in sites.items()}
        return {"layer": step.number, "discarded": records["output"]["discarded"], "sites": records}

    def rotated(
        self, name: str, vectors: Tensor, rows: Callable[[], Iterator[Tensor]], gain: Tensor | None
    ) -> Computed:
        """A matrix outside the layers whose rows are read in blocks and rotated one by one."""
        dtype = self._decoder.dtype
        count = self._cut.shapes.vocabulary

        def blocks() -> Iterator[Tensor]:
            for block in rows():
                whole = self._embeddings(block) if name == EMBEDDING else block
                yield rotate_inputs(whole, vectors, gain).to(dtype)

        return Computed(dtype, (count, vectors.shape[1]), blocks)

    def _begin(self, step: LayerStep) -> Basis:
        """The basis of the embeddings, which go with the first layer."""
        assert step.hidden is not None  # noqa: S101 - there are tokens
        step.hidden.copy_(self._embeddings(step.hidden))
        layer, moment = step.module, SecondMoment(self._cut.shapes.hidden, self._device)
        step.module = _Through()
        step.observe([outputs_of("", moment.add)])
        step.module = layer
        basis = principal_basis(moment.matrix)
        vectors = self._cut.directions(basis, 0).cpu()
        reader = self._decoder.reader
        step.contents[EMBEDDING] = self.rotated(
            EMBEDDING, vectors, lambda: reader.blocks(EMBEDDING), None
        )
        step.carried = {STREAM: vectors}
        return basis

    def _embeddings(self, rows: Tensor) -> Tensor:
        return centred(rows) if self._cut.centred else rows

    def _narrow(
        self, layer: nn.Module, names: tuple[str, ...], gain: Tensor, vectors: Tensor
    ) -> None:
        """Let matrices read the stream in those directions, without their norm's gain."""
        for name in names:
            matrix = layer.get_submodule(name)
            matrix.weight = nn.Parameter(
                rotate_inputs(matrix.weight, vectors, gain), requires_grad=False
            )

    def _pass(self, step: LayerStep, vectors: Tensor, part: Callable[..., Tensor]) -> Basis:
        """Pass the tokens on through half a layer, and find the basis of what it gives."""
        moment = SecondMoment(self._cut.shapes.hidden, self._device)
        step.module = _Half(vectors.to(self._decoder.dtype), self._norm, part)
        step.advance([outputs_of("", moment.add)])
        return principal_basis(moment.matrix)

    def _store(
        self, step: LayerStep, layer: nn.Module, before: Tensor, middle: Tensor, after: Tensor
    ) -> None:
        contents, dtype = step.contents, self._decoder.dtype
        for norm in NORMS:
            del contents[step.name(f"{norm}.weight")]
        for name in (*READS_STREAM, *READS_MIDDLE):
            contents[step.name(f"{name}.weight")] = layer.get_submodule(name).weight
        for name, vectors in ((WRITES_MIDDLE, middle), (WRITES_STREAM, after)):
            matrix = layer.get_submodule(name)
            for leaf, tensor in matrix.named_parameters():
                contents[step.name(f"{name}.{leaf}")] = rotate_outputs(tensor, vectors)
        contents[step.name(f"{ATTENTION}.weight")] = shortcut(before, middle, dtype)
        contents[step.name(f"{FFN}.weight")] = shortcut(middle, after, dtype)


class _Half(nn.Module):  # type: ignore[misc]
    """Attention or an FFN that reads the directions that are left, with the shortcut past it."""

    def __init__(self, vectors: Tensor, norm: nn.Module, part: Callable[..., Tensor]) -> None:
        super().__init__()
        self._vectors, self._norm, self._part = vectors, norm, part

    def forward(self, hidden_states: Tensor, **given: Any) -> Tensor:
        """Hidden states [B, T, D] before and after, both in the parent's basis."""
        kept = linear(hidden_states, self._vectors.T)  # [B, T, d]
        return linear(kept, self._vectors) + self._part(self._norm(kept), **given)


class _Through(nn.Module):  # type: ignore[misc]
    """In place of a layer, to look at what it is given."""

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        return hidden_states


def _specs(decoder: Decoder, form: SlicedForm) -> list[TensorSpec]:
    """Every tensor of the form, in the order in which files are filled."""
    architecture, dtype = decoder.architecture, NAMES[decoder.dtype]
    shapes = form.shapes
    found = [TensorSpec(EMBEDDING, dtype, (shapes.vocabulary, form.kept))]
    for number in range(shapes.layers):
        matrices = {f"{name}.weight": size for name, size in sliced_shapes(form, number).items()}
        widths = form.widths(number)
        matrices[f"{WRITES_MIDDLE}.bias"] = (widths.middle,)
        matrices[f"{WRITES_STREAM}.bias"] = (widths.after,)
        prefix = f"model.layers.{number}."
        names = [name.removeprefix(prefix) for name in architecture.layer_tensor_names(number)]
        for name in (*names, f"{ATTENTION}.weight", f"{FFN}.weight"):
            if name in matrices:
                found.append(TensorSpec(prefix + name, dtype, matrices[name]))
            elif name.removesuffix(".weight") not in NORMS:
                found.append(decoder.reader.entries[prefix + name].spec)
    return [*found, TensorSpec(HEAD, dtype, (shapes.vocabulary, shapes.hidden))]
