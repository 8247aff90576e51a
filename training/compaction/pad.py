"""From the true widths back to the padded form."""

from pathlib import Path

import torch
from torch import Tensor

from espalier.contract.files import write_bytes
from espalier.contract.manifest import pruning_of
from espalier.contract.parameters import Parameters
from espalier.contract.pruned import Foreign, Padded
from espalier.contract.stage import Outcome, StageContext
from espalier.errors import InputError
from espalier.models.adapter import Architecture
from espalier.models.axes import LAYER_AXES
from espalier.models.checkpoint.companions import CONFIG, copy_companions
from espalier.models.checkpoint.header import TensorEntry, TensorSpec
from espalier.models.checkpoint.reader import TORCH_DTYPES, CheckpointReader
from espalier.models.checkpoint.writer import CheckpointWriter
from espalier.models.compact import STOCK_CONFIG, padded_config
from espalier.models.narrow import COMPACT, Form, Narrowed, narrowed
from espalier.models.shapes import read_config
from espalier.pruning.structured.restructure import head_rows


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Put the zeros back.

    Raises:
        InputError: the model is not compact, or its manifest is of another.
    """
    source = context.inputs["compact"]
    pruned = pruning_of(source)
    if not isinstance(pruned, Foreign) or pruned.form != COMPACT:
        raise InputError(f"{source.name} is not compact; give what make compact has made.")
    account = Padded.model_validate(pruned.facts["padded"])
    form: Form = "layers" if read_config(source)["model_type"] == COMPACT else "block-configs"
    write(source, context.output, narrowed(account, form), context)
    copy_companions(source, context.output)
    write_bytes(context.output / CONFIG, (source / STOCK_CONFIG).read_bytes())
    return Outcome(pruning=account)


def write(source: Path, output: Path, layers: tuple[Narrowed, ...], context: StageContext) -> None:
    """Write every tensor of the padded model, one at a time."""
    reader, architecture = CheckpointReader(source), Architecture(padded_config(source))
    specs = [
        TensorSpec(name, _dtype(name, reader), shape)
        for name, shape in architecture.expected_shapes().items()
        if name in reader or _in_layer(name)
    ]
    writer = CheckpointWriter(output, specs, resume=True)
    with context.progress.steps("write", len(specs)) as steps:
        for spec in specs:
            places = _places(spec.name, layers, architecture.shapes.head_dim)
            writer.write({spec.name: _padded(reader, spec, places)})
            steps.advance()
    writer.finish()


def _in_layer(name: str) -> bool:
    return name.startswith("model.layers.")


def _dtype(name: str, reader: CheckpointReader) -> str:
    """Of a tensor of which nothing was left, that of the same in another layer, or of any."""
    same = (n for n in reader.entries if n.partition("layers.")[2].partition(".")[2] == _leaf(name))
    found = name if name in reader else next(same, next(iter(reader.entries)))
    return reader.entries[found].dtype


def _leaf(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` without the layer."""
    return name.split(".", 3)[3]


def _places(
    name: str, layers: tuple[Narrowed, ...], head_dim: int
) -> tuple[Tensor | None, ...] | None:
    """For each dimension the indices that were kept, int64; None: all. None: of no layer."""
    if not _in_layer(name):
        return None
    layer = layers[int(name.split(".")[2])]
    kept = {
        "queries": head_rows(layer.heads, head_dim),
        "keys": head_rows(layer.kv_heads, head_dim),
        "intermediate": torch.tensor(layer.neurons, dtype=torch.int64),
    }
    return tuple(kept.get(axis) for axis in LAYER_AXES[_leaf(name)])


def _padded(
    reader: CheckpointReader, spec: TensorSpec, places: tuple[Tensor | None, ...] | None
) -> Tensor | TensorEntry:
    """The tensor with zeros where nothing was kept; one of which all was kept, as it lies there."""
    if places is None or all(kept is None for kept in places):
        return reader.entries[spec.name]
    whole = torch.zeros(spec.shape, dtype=TORCH_DTYPES[spec.dtype])
    if spec.name in reader:
        indices = [
            torch.arange(size) if kept is None else kept
            for size, kept in zip(spec.shape, places, strict=True)
        ]
        whole[torch.meshgrid(*indices, indexing="ij")] = reader.read(spec.name)
    return whole
