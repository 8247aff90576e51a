"""MaxText's model on rows of a prefix tree, as an evaluation asks it.

Attention along the tree takes the place of MaxText's own, tokens have the positions that they have
in their requests, and only chosen states reach the output layer.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.linen import logical_axis_rules
from jax.sharding import NamedSharding, PartitionSpec

from espalier.models.shapes import Shapes
from training.maxtext_model.checkpoint import Arrays, StoredWeights
from training.maxtext_model.model import Model
from training.maxtext_model.upstream import Attention

BATCH = "data"
"""The axis of the mesh that sequences are spread over; each device has all weights."""
TRAINING = "train"
"""MaxText's mode of whole sequences without a cache."""
SCORES_AT_ONCE = {"cpu": 1 << 21, "tpu": 1 << 27}
"""Of attention, for all rows: 8 MiB stay near a processor's caches; a TPU has to be kept busy."""


def tree_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    ends: jax.Array,
    *,
    scores: int,
    precision: str,
) -> jax.Array:
    """Attention in which a token sees those before it that its own requests have.

    Some queries of every row at a time: their scores, which nothing else needs, stay where they
    were computed, and are as good as all of what attention takes.

    Args:
        query: scaled, [B, T, N, D].
        key: [B, T, K, D]; each head serves N / K of the query's.
        value: as `key`.
        ends: int32 [B, T]: token j is seen by the tokens i with j <= i < ends[j].
        scores: to be held at a time, about.
        precision: of products, as JAX names it.

    Returns:
        float32 [B, T, N, D].
    """
    batch, length, heads, size = query.shape
    shared, groups = key.shape[2], heads // key.shape[2]
    block = length
    while block % 2 == 0 and batch * heads * length * block > scores:
        block //= 2
    places = jnp.arange(length)
    blocks = query.astype(jnp.float32).reshape(batch, -1, block, shared, groups, size)
    blocks = blocks.transpose(1, 0, 3, 4, 2, 5)  # [T / block, B, K, N / K, block, D]
    keys, values = (part.astype(jnp.float32).transpose(0, 2, 1, 3) for part in (key, value))

    def attend(some: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Of queries [B, K, N / K, block, D] and their places [block]."""
        own, queries = some
        seen = (own[:, None] >= places) & (own[:, None] < ends[:, None, :])  # [B, block, T]
        found = jnp.einsum("bkgtd,bksd->bkgts", queries, keys, precision=precision)
        found = jnp.where(seen[:, None, None], found, -jnp.inf)
        weights = jnp.exp(found - found.max(axis=-1, keepdims=True))
        total = weights.sum(axis=-1, keepdims=True)
        return jnp.einsum("bkgts,bksd->bkgtd", weights, values, precision=precision) / total

    attended = jax.lax.map(attend, (places.reshape(-1, block), blocks))
    return attended.transpose(1, 0, 4, 2, 3, 5).reshape(query.shape)


@dataclass(frozen=True)
class TreeModel:
    """The model of a config.json, on all devices; its two parts are to be compiled by the caller.

    Attributes:
        dtype: in which it computes and keeps its weights: `float32` or `bfloat16`.
        scanned: whether its layers' weights are stacked.
    """

    model: Model
    dtype: str
    scanned: bool

    @classmethod
    def of(cls, config: Mapping[str, Any], dtype: str, device: str) -> "TreeModel":
        """On JAX's devices.

        Args:
            config: of config.json.
            dtype: `float32` or `bfloat16`; softmax and its scores are float32 in both.
            device: `cpu` or `tpu`.

        Raises:
            InputError: MaxText's decoder does not support something in config.json.
        """
        # XLA copies each layer's weights out of stacked ones where it computes on a processor.
        scanned = device != "cpu"
        precision = "highest" if dtype == "float32" else "default"
        keys = {
            "hardware": device,
            "scan_layers": scanned,
            "dtype": dtype,
            "weight_dtype": dtype,
            "matmul_precision": precision,
            "attention": "dot_product",
            "float32_qk_product": True,
            "float32_logits": True,
            "ici_data_parallelism": -1,
            "ici_fsdp_parallelism": 1,
            "per_device_batch_size": 1,
            "max_target_length": Shapes.of(config).positions,
        }
        model = Model.of(config, keys)
        attend = partial(tree_attention, scores=SCORES_AT_ONCE[device], precision=precision)
        return cls(replace(model, create=lambda: _on_trees(model.create(), attend)), dtype, scanned)

    @property
    def devices(self) -> int:
        """How many share a batch."""
        return int(self.model.mesh.size)

    def load(self, checkpoint: Path, config: Mapping[str, Any]) -> Arrays:
        """A Hugging Face directory's weights, whole on each device.

        Raises:
            InputError: a tensor is missing, of another shape, or holds NaN or infinities.
        """
        stored = StoredWeights(checkpoint, Shapes.of(config), scanned=self.scanned)
        everywhere = NamedSharding(self.model.mesh, PartitionSpec())
        with self.placed():
            flat = nnx.to_flat_state(nnx.state(nnx.eval_shape(self.model.create), nnx.Param))
        found = {}
        for path, variable in flat:
            shape = variable.get_value().shape
            wanted = jax.ShapeDtypeStruct(shape, jnp.dtype(self.dtype), sharding=everywhere)
            found[path] = stored.load(path, wanted)
        return found

    def spread(self, values: Any) -> jax.Array:
        """An array that every process has whole, on the devices, which share its first axis."""
        shared = NamedSharding(self.model.mesh, PartitionSpec(BATCH))
        return jax.make_array_from_callback(values.shape, shared, lambda index: values[index])

    @contextmanager
    def placed(self) -> Iterator[None]:
        """Within it the parts may be traced: the mesh and the names of its axes are known."""
        with (
            jax.set_mesh(self.model.mesh),
            logical_axis_rules(self.model.settings.logical_axis_rules),
        ):
            yield

    def states(
        self, arrays: Arrays, ids: jax.Array, positions: jax.Array, ends: jax.Array
    ) -> jax.Array:
        """The last layer's states [B, T, H] of rows int32 [B, T] each; before the final norm."""
        made = self._with(arrays)
        return made.decoder(  # type: ignore[no-any-return]
            shared_embedding=made.token_embedder,
            decoder_input_tokens=ids,
            decoder_positions=positions,
            decoder_segment_ids=ends,
            deterministic=True,
            model_mode=TRAINING,
        )[1]

    def logits(self, arrays: Arrays, states: jax.Array) -> jax.Array:
        """Logits float32 [B, N, V] of chosen states [B, N, H]."""
        made = self._with(arrays)
        found = made.logits_from_hidden_states_for_vocab_tiling(states, True, TRAINING)
        return found.astype(jnp.float32)  # type: ignore[no-any-return]

    def _with(self, arrays: Arrays) -> Any:
        """The model with these weights, within `jax.jit`."""
        made = self.model.create()
        flat = nnx.to_flat_state(nnx.state(made, nnx.Param))
        nnx.update(made, nnx.from_flat_state((path, v.replace(arrays[path])) for path, v in flat))
        return made


def _on_trees(model: nnx.Module, attend: Callable[..., jax.Array]) -> nnx.Module:
    """The model with such an attention, for which `ends` come as numbers of packed documents."""

    def attention(
        query: jax.Array, key: jax.Array, value: jax.Array, ends: jax.Array, *_: Any, **__: Any
    ) -> tuple[jax.Array, None, None]:
        """As MaxText calls its own; without a maximum and a sum, its result is whole."""
        return attend(query, key, value, ends), None, None

    for _, module in nnx.iter_graph(model):
        if isinstance(module, Attention):
            module.attention_op.apply_attention_dot = attention
    return model
