"""From a Hugging Face directory to the state dict of Sheared-LLaMA's Composer model."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from espalier.contract.manifest import pruning_of
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Outcome, StageContext
from espalier.errors import EnvironmentFailure, InputError
from espalier.models.checkpoint.companions import copy_companions, copy_config
from espalier.models.checkpoint.locate import BUFFERS
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.content import config_as_stored, stated_dtype
from espalier.models.shapes import Shapes
from training.conversion.composer_config import require_same_model
from training.conversion.composer_file import STATE, read_state, write_state
from training.conversion.composer_forward import probe
from training.conversion.composer_names import EMBEDDING, HEAD, hugging_face_names

GROUPED = (
    "heads share keys and values, which have names of their own and are kept as they are; "
    "Sheared-LLaMA's published code has none that are shared and refuses their shapes"
)


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Convert, read back, and leave the logits of what was read to be compared with the source's.

    Raises:
        InputError: the model is none that Sheared-LLaMA's code computes.
        EnvironmentFailure: what is read back is not what was written.
    """
    source, file = context.inputs["model"], context.output / STATE
    config = config_as_stored(source)
    require_same_model(config, source.name)
    reader, shapes = CheckpointReader(source), Shapes.of(config)
    stored = stored_names(reader, shapes)
    tensors: dict[str, Tensor] = {}
    with context.progress.steps("hf2composer", len(stored)) as steps:
        for name, place in stored.items():
            tensors[name] = reader.read(place)
            steps.advance(tensor=name)
    if HEAD not in tensors:  # Composer's model ties nothing; in the file they are one storage
        tensors[HEAD] = tensors[EMBEDDING]
    write_state(file, tensors)
    written = read_state(file)
    _require_same_bits(file, tensors, written)
    del tensors
    copy_companions(source, context.output)
    copy_config(source, context.output, str(stated_dtype(config)))
    probe(written, config, context.scratch)
    grouped = shapes.kv_heads != shapes.heads
    if grouped:
        context.progress.say(GROUPED)
    return Outcome(
        pruning=pruning_of(source),
        checks={"weights_equal": True},
        notes={"grouped_queries": GROUPED} if grouped else {},
    )


def stored_names(reader: CheckpointReader, shapes: Shapes) -> dict[str, str]:
    """Composer's names of what the directory stores, with Hugging Face's.

    Raises:
        InputError: it stores what Composer's model has no place for.
    """
    names = {n: place for n, place in hugging_face_names(shapes.layers).items() if place in reader}
    if shapes.tied:
        names.pop(HEAD, None)
    known = {*names.values(), "lm_head.weight"}
    other = [name for name in reader.entries if name not in known and not BUFFERS.search(name)]
    if other:
        raise InputError(
            f"{reader.directory.name} has {other[0]}, for which Sheared-LLaMA's Composer model has "
            "no place; where a pruning has added biases, prune with BIAS=0."
        )
    return names


def _require_same_bits(file: Path, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    for name, tensor in one.items():
        found = other.get(name)
        if found is None or found.dtype != tensor.dtype or not _equal(found, tensor):
            raise EnvironmentFailure(
                f"{file} reads otherwise than it was written ({name}); check the disk."
            )


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bytes: zeros have signs."""
    return one.shape == other.shape and bool(
        torch.equal(one.view(torch.uint8), other.view(torch.uint8))
    )
