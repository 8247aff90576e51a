"""From the state dict of Sheared-LLaMA's Composer model to a Hugging Face directory."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.manifest import pruning_of
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Outcome, StageContext
from espalier.errors import InputError
from espalier.models.adapter import HEAD as LM_HEAD
from espalier.models.adapter import Architecture
from espalier.models.checkpoint.companions import CONFIG, copy_companions
from espalier.models.checkpoint.reader import check_finite
from espalier.models.checkpoint.writer import CheckpointWriter, spec_of
from espalier.models.shapes import DTYPE_BYTES, read_config
from training.conversion.composer_config import config_of, dtype_of, require_same_model
from training.conversion.composer_file import STATE, read_state
from training.conversion.composer_forward import probe
from training.conversion.composer_names import hugging_face_names


def run(context: StageContext, parameters: Parameters) -> Outcome:
    """Convert, and leave the state dict's logits to be compared with the result's.

    Raises:
        InputError: the file is none that is read here, lacks a tensor or has one of another shape,
            or the model of the config is none that Sheared-LLaMA's code computes.
    """
    source, owner = context.inputs["composer"], context.inputs["config"]
    file = source / STATE if source.is_dir() else source
    require_same_model(read_config(owner), owner.name)
    state = read_state(file)
    config = config_of(state, read_config(owner), file.name)
    tensors = renamed(state, config, file.name)
    writer = CheckpointWriter(
        context.output, [spec_of(name, tensor) for name, tensor in tensors.items()]
    )
    with context.progress.steps("composer2hf", len(tensors)) as steps:
        for name, tensor in tensors.items():
            check_finite(name, tensor)
            writer.write({name: tensor})
            steps.advance(tensor=name)
    writer.finish()
    copy_companions(owner, context.output)
    write_text(context.output / CONFIG, to_json(config, indent=2) + "\n")
    probe(state, config, context.scratch)
    return Outcome(pruning=pruning_of(source))


def renamed(state: Mapping[str, Tensor], config: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """Tensors by Hugging Face's names, in the order of the stock model of this config.

    A head that is tied is left out. `name` is the file's, for what is said of it.

    Raises:
        InputError: a tensor is missing, of another shape or type, or has no place.
    """
    expected = Architecture(config).expected_shapes()
    names = {place: key for key, place in hugging_face_names(config["num_hidden_layers"]).items()}
    if config["tie_word_embeddings"]:
        del expected[LM_HEAD]
    if other := sorted(state.keys() - set(names.values())):
        raise InputError(
            f"{name} holds {other[0]}, for which a Llama has no place; take it out of the state "
            "dict if the model computes without it."
        )
    for place, shape in expected.items():
        key = names.get(place, place)
        if key not in state:
            raise InputError(f"{name} lacks the tensor {key}; save the whole state dict.")
        if tuple(state[key].shape) != shape:
            raise InputError(
                f"{key} of {name} has shape {list(state[key].shape)}, where the other tensors ask "
                f"for {list(shape)}; every block of a Llama has the same widths."
            )
        if dtype_of(state[key]) not in DTYPE_BYTES:
            raise InputError(
                f"{key} of {name} is {state[key].dtype}; weights must be float32, bfloat16 or "
                "float16."
            )
    return {place: state[names[place]] for place in expected}
