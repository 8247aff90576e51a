"""The extracted model as files, and the proof that it computes what the masked one did."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.progress import Progress
from espalier.models.adapter import Architecture
from espalier.models.checkpoint.companions import CONFIG, copy_companions
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.checkpoint.writer import Computed
from espalier.models.content import config_as_stored, stated_dtype
from espalier.models.shapes import read_config
from espalier.models.stock import stock_config, stock_model
from espalier.pruning.structured.restructure import (
    Selection,
    check_stock_shapes,
    restructured_config,
    write_units,
)
from espalier.pruning.structured.units import LayerUnits, queries_of
from methods.sheared_llama.domains import Source
from methods.sheared_llama.extraction import Extraction


def selection_of(extraction: Extraction) -> Selection:
    """What is kept of the parent, for the manifest's account."""
    masks, parent = extraction.masks, extraction.target.parent
    units = {
        layer: LayerUnits(tuple(_kept(masks.heads[layer])), tuple(_kept(masks.neurons[layer])))
        for layer in extraction.layers
    }
    return Selection(
        layers=list(extraction.layers),
        hidden=_kept(masks.hidden),
        intermediate={layer: own.neurons for layer, own in units.items()},
        heads={layer: queries_of(own, parent) for layer, own in units.items()},
        kv_heads={layer: own.kv_heads for layer, own in units.items()},
    )


def write_extracted(
    parent: Path, output: Path, stock: Any, extraction: Extraction, progress: Progress
) -> None:
    """Write the checkpoint that is left of a trained model, in the dtype that its parent has.

    Args:
        parent: the directory of the model before.
        output: where to.
        stock: the trained model, float32.
        extraction: what is left of it.
        progress: one step a layer.

    Raises:
        InputError: stock transformers has no such shape.
        EnvironmentFailure: the disk cannot be written.
    """
    architecture, reader = Architecture.of(parent), CheckpointReader(parent)
    config = restructured_config(
        config_as_stored(parent), extraction.layers, extraction.target.shapes
    )
    expected = Architecture(config).expected_shapes()
    trained = dict(stock.state_dict())
    dtype = getattr(torch, str(stated_dtype(config)))
    outer = architecture.outer_tensor_names(reader)
    units = [architecture.layer_tensor_names(layer) for layer in extraction.layers]
    contents = [
        {
            new: Computed(
                dtype,
                extraction.shape(old, tuple(trained[old].shape)),
                partial(_blocks, extraction, old, trained[old], dtype),
            )
            for new, old in extraction.sources(names).items()
        }
        for names in (*units, outer)
    ]
    parts = {name: part for unit in contents for name, part in unit.items()}
    check_stock_shapes(config, expected, {name: part.shape for name, part in parts.items()})
    write_units(output, contents, expected, progress)
    copy_companions(parent, output)
    write_text(output / CONFIG, to_json(config, indent=2) + "\n")


def write_trained(extracted: Path, output: Path, stock: Any, progress: Progress) -> None:
    """Write what `write_extracted` wrote, with the weights that it was trained to since.

    Args:
        extracted: the directory of the model before.
        output: where to.
        stock: the trained model, float32.
        progress: one step a layer.

    Raises:
        EnvironmentFailure: the disk cannot be written.
    """
    architecture, reader = Architecture.of(extracted), CheckpointReader(extracted)
    trained = dict(stock.state_dict())
    dtype = getattr(torch, str(stated_dtype(config_as_stored(extracted))))
    layers = range(architecture.shapes.layers)
    units = [architecture.layer_tensor_names(layer) for layer in layers]
    contents = [
        {
            name: Computed(dtype, tuple(trained[name].shape), partial(_whole, trained[name], dtype))
            for name in names
        }
        for names in (*units, architecture.outer_tensor_names(reader))
    ]
    write_units(output, contents, architecture.expected_shapes(), progress)
    copy_companions(extracted, output)
    write_text(output / CONFIG, (extracted / CONFIG).read_text())


@torch.no_grad()  # type: ignore[untyped-decorator]
def logits_difference(
    output: Path, stock: Any, extraction: Extraction, held_out: Mapping[str, Source]
) -> float:
    """How far the extracted model's logits are from those of the masked one, with float32 weights.

    Of the first held-out row of each domain, relative to the largest.

    Args:
        output: the directory of the extracted model, whose shape is built and filled in float32.
        stock: the trained model with the final masks in use.
        extraction: what is left of it.
        held_out: rows of each domain.
    """
    config = stock_config(read_config(output))
    extracted = stock_model(config).float().eval()
    trained = dict(stock.named_parameters())
    for new, old in extraction.sources(trained).items():
        extracted.get_parameter(new).data.copy_(extraction.tensor(old, trained[old].cpu()))
    stock.eval()
    largest = difference = 0.0
    for source in held_out.values():
        ids = torch.from_numpy(source[0])[None]
        before = stock(input_ids=ids.to(stock.device), use_cache=False).logits.float().cpu()
        after = extracted(input_ids=ids, use_cache=False).logits
        largest = max(largest, float(before.abs().max()))
        difference = max(difference, float((after - before).abs().max()))
    return difference / largest


def _blocks(extraction: Extraction, name: str, stored: Tensor, dtype: Any) -> Iterator[Tensor]:
    yield extraction.tensor(name, stored.detach().cpu()).to(dtype)


def _whole(stored: Tensor, dtype: Any) -> Iterator[Tensor]:
    yield stored.detach().cpu().to(dtype)


def _kept(values: Tensor) -> list[int]:
    return [int(place) for place in values.nonzero()[:, 0]]
