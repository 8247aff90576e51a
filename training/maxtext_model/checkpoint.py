"""Hugging Face directories read into sharded arrays, and written from them, a layer at a time."""

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.errors import InputError
from espalier.models.checkpoint.companions import CONFIG, copy_companions
from espalier.models.checkpoint.header import TensorSpec
from espalier.models.checkpoint.locate import locate
from espalier.models.checkpoint.shards import ShardWriter
from espalier.models.found_zeros import is_masked
from espalier.models.shapes import Shapes
from training.maxtext_model.names import STACKED_AXIS, Weight, weights
from training.maxtext_model.shape import stored_dtype

NUMPY_DTYPES: dict[str, Any] = {
    "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
}  # fmt: skip
STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
Arrays = dict[tuple[str, ...], jax.Array]


class StoredWeights:
    """A checkpoint's tensors under their places in MaxText.

    Raises:
        InputError: a tensor is missing, of another shape, or of a dtype that is not read.
    """

    def __init__(self, directory: Path, shapes: Shapes, *, scanned: bool) -> None:
        self.shapes = shapes
        self._entries = locate(directory)
        self._weights: dict[tuple[str, ...], list[Weight]] = {}
        for weight in weights(shapes, scanned=scanned):
            self._check(directory, weight)
            self._weights.setdefault(weight.path, []).append(weight)

    def __contains__(self, path: tuple[str, ...]) -> bool:
        return path in self._weights

    def load(self, path: tuple[str, ...], like: jax.ShapeDtypeStruct) -> jax.Array:
        """A parameter, of the dtype and sharding of `like`; each device's part is read by itself.

        Raises:
            InputError: a value is NaN or infinite.
        """

        def part(index: tuple[slice, ...]) -> np.ndarray[Any, Any]:
            found = self._read(path, index, like).astype(like.dtype)
            if not (np.isfinite(found.min()) and np.isfinite(found.max())):
                names = ", ".join(weight.name for weight in self._weights[path][:1])
                raise InputError(f"{names} holds NaN or infinite weights; the model is damaged.")
            return found

        return jax.make_array_from_callback(like.shape, like.sharding, part)

    def _read(
        self, path: tuple[str, ...], index: tuple[slice, ...], like: jax.ShapeDtypeStruct
    ) -> np.ndarray[Any, Any]:
        found = self._weights[path]
        if found[0].layer is None:
            return self._tensor(found[0])[index]
        rest = (*index[:STACKED_AXIS], *index[STACKED_AXIS + 1 :])
        wanted = found[index[STACKED_AXIS]]
        layers = [self._tensor(weight)[rest].astype(like.dtype) for weight in wanted]
        return np.stack(layers, axis=STACKED_AXIS)

    def _tensor(self, weight: Weight) -> np.ndarray[Any, Any]:
        entry = self._entries[weight.name]
        data = np.memmap(entry.file, NUMPY_DTYPES[entry.dtype], "r", entry.offset, entry.shape)
        return np.asarray(weight.to_maxtext(data))

    def _check(self, directory: Path, weight: Weight) -> None:
        entry = self._entries.get(weight.name)
        if entry is None:
            raise InputError(f"{directory} lacks the tensor {weight.name} its config asks for.")
        if entry.shape != weight.stored or entry.dtype not in NUMPY_DTYPES:
            raise InputError(
                f"{weight.name} is {entry.dtype} {list(entry.shape)}, where config.json of "
                f"{directory} asks for {list(weight.stored)} of float32, bfloat16 or float16."
            )


def write_checkpoint(
    arrays: Arrays, target: Path, config: Mapping[str, Any], tokenizer: Path, *, scanned: bool
) -> None:
    """Write a checkpoint of the config's dtype, of MaxText's parameters by path.

    They may be sharded in any way: every process takes part, and the first one writes.

    Raises:
        EnvironmentFailure: the disk is full or cannot be written.
    """
    dtype = STORED[stored_dtype(config)]
    found = list(weights(Shapes.of(config), scanned=scanned))
    writer = None
    if jax.process_index() == 0:
        target.mkdir(parents=True, exist_ok=True)
        writer = ShardWriter(target, [TensorSpec(w.name, dtype, w.stored) for w in found])
    for _, unit in groupby(found, key=lambda weight: weight.name.split(".")[:3]):
        tensors = {w.name: _whole(arrays, w, NUMPY_DTYPES[dtype]) for w in unit}
        if writer is not None:
            writer.write_blocks({n: [tensor.view(np.uint8)] for n, tensor in tensors.items()})
    if writer is not None:
        writer.finish()
        copy_companions(tokenizer, target)
        write_text(target / CONFIG, to_json(dict(config), indent=2, sort_keys=True) + "\n")


def sparsity_of(checkpoint: Path) -> float:
    """Zeros among the entries of the layers' matrices."""
    zeros = total = 0
    for name, entry in locate(checkpoint).items():
        if is_masked(name, entry.shape):
            dtype = NUMPY_DTYPES[entry.dtype]
            data = np.memmap(entry.file, dtype, "r", entry.offset, entry.shape)
            zeros += data.size - int(np.count_nonzero(data))
            total += data.size
    return zeros / total


def _whole(arrays: Arrays, weight: Weight, dtype: Any) -> np.ndarray[Any, Any]:
    """A tensor as Hugging Face has it, gathered from all processes."""
    array = arrays[weight.path]
    if weight.layer is not None:
        array = jax.lax.index_in_dim(array, weight.layer, STACKED_AXIS, keepdims=False)
    if not array.is_fully_addressable:
        everywhere = jax.sharding.NamedSharding(array.sharding.mesh, jax.sharding.PartitionSpec())
        array = jax.jit(lambda part: part, out_shardings=everywhere)(array)
    found = np.asarray(array.addressable_data(0) if array.is_fully_replicated else array)
    return np.ascontiguousarray(weight.to_hugging_face(found).astype(dtype))
