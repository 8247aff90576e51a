"""MaxText's checkpoint of a model alone: `0/items` with `params/params`, as it loads parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx, traverse_util

from espalier.contract.json_text import NotJson, from_json, to_json
from espalier.errors import EnvironmentFailure, InputError
from training.maxtext_model.checkpoint import Arrays
from training.maxtext_model.model import Model
from training.maxtext_model.shape import model_keys, stored_dtype
from training.tpu_maxtext.state import sharded

ITEMS = Path("0") / "items"
KEYS = "maxtext.json"
"""Beside it: MaxText's keys for the model."""


def model_of(config: Mapping[str, Any], *, scanned: bool) -> Model:
    """The model whose weights have the dtype that config.json states."""
    dtype = stored_dtype(config)
    keys = {
        "hardware": "cpu",
        "attention": "dot_product",
        "scan_layers": scanned,
        "weight_dtype": dtype if dtype != "float16" else "float32",
        "per_device_batch_size": 1,
        "max_target_length": 8,
    }
    return Model.of(config, keys)


def abstract_weights(model: Model) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    """Shape, dtype and sharding of every parameter, by path."""
    return sharded(nnx.state(nnx.eval_shape(model.create), nnx.Param), model.mesh)


def save(arrays: Arrays, target: Path, config: Mapping[str, Any], *, scanned: bool) -> None:
    """Write the parameters below `target`, from where the arrays are.

    Raises:
        EnvironmentFailure: the disk is full or cannot be written.
    """
    tree = {"params": {"params": traverse_util.unflatten_dict(arrays)}}
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(target.resolve() / ITEMS, tree, force=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise EnvironmentFailure(
            f"{target} cannot be written: {reason}; free the space or choose another store."
        ) from None
    keys = {**model_keys(config), "scan_layers": scanned}
    (target / KEYS).write_text(to_json(keys, indent=2, sort_keys=True) + "\n")


def load(directory: Path, config: Mapping[str, Any], *, scanned: bool) -> Arrays:
    """Read the parameters of a checkpoint.

    Raises:
        InputError: it holds no parameters of the shapes that config.json asks for.
    """
    wanted = abstract_weights(model_of(config, scanned=scanned))
    tree = {"params": {"params": traverse_util.unflatten_dict(wanted)}}
    asked = ocp.checkpoint_utils.construct_restore_args(tree)
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            found = checkpointer.restore(
                directory.resolve() / ITEMS,
                args=ocp.args.PyTreeRestore(item=tree, restore_args=asked),
            )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{directory} cannot be read as its config.json says: {reason}") from None
    arrays: Arrays = traverse_util.flatten_dict(found["params"]["params"])
    for path, like in wanted.items():
        if arrays[path].shape != like.shape:
            raise InputError(
                f"{'.'.join(path)} of {directory} is {list(arrays[path].shape)}, where config.json "
                f"asks for {list(like.shape)}."
            )
    return arrays


def is_scanned(directory: Path) -> bool:
    """Whether its layers are stacked.

    Raises:
        InputError: it is no conversion's output.
    """
    try:
        return bool(from_json((directory / KEYS).read_bytes())["scan_layers"])
    except (OSError, NotJson, LookupError, TypeError):
        raise InputError(f"{directory} has no {KEYS}; make it with make to-maxtext.") from None
