"""MaxText's model on rows of a prefix tree, as an evaluation asks it.

A row's mask takes the place of MaxText's own, its tokens have the positions that they have in
their requests, and only chosen states reach the output layer.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
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


def tree_mask(query: jax.Array, key: jax.Array, ends: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """In place of MaxText's mask: 0 where a token is seen, minus infinity elsewhere.

    Args:
        query: not looked at; as MaxText calls its own.
        key: neither.
        ends: int32 [B, T], which stand where MaxText has the numbers of packed documents: token j
            is seen by the tokens i with j <= i < ends[j].

    Returns:
        float32 [B, 1, 1, T, T], queries in rows.
    """
    places = jnp.arange(ends.shape[1])
    seen = (places[:, None] >= places) & (places[:, None] < ends[:, None, :])
    return jnp.where(seen, 0.0, -jnp.inf)[:, None, None]


@dataclass(frozen=True)
class TreeModel:
    """The model of a config.json, on all devices; its two parts are to be compiled by the caller.

    Attributes:
        dtype: in which it computes and keeps its weights: `float32` or `bfloat16`.
    """

    model: Model
    dtype: str

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
        keys = {
            "hardware": device,
            "scan_layers": True,
            "dtype": dtype,
            "weight_dtype": dtype,
            "matmul_precision": "highest" if dtype == "float32" else "default",
            "attention": "dot_product",
            "float32_qk_product": True,
            "float32_logits": True,
            "ici_data_parallelism": -1,
            "ici_fsdp_parallelism": 1,
            "per_device_batch_size": 1,
            "max_target_length": Shapes.of(config).positions,
        }
        model = Model.of(config, keys)
        return cls(replace(model, create=lambda: _on_trees(model.create())), dtype)

    @property
    def devices(self) -> int:
        """How many share a batch."""
        return int(self.model.mesh.size)

    def load(self, checkpoint: Path, config: Mapping[str, Any]) -> Arrays:
        """A Hugging Face directory's weights, whole on each device.

        Raises:
            InputError: a tensor is missing, of another shape, or holds NaN or infinities.
        """
        stored = StoredWeights(checkpoint, Shapes.of(config), scanned=True)
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
        """An array of numpy on the devices, its first axis shared between them."""
        return jax.device_put(values, NamedSharding(self.model.mesh, PartitionSpec(BATCH)))

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


def _on_trees(model: nnx.Module) -> nnx.Module:
    """The model with a tree's mask in every attention."""
    for _, module in nnx.iter_graph(model):
        if isinstance(module, Attention):
            module.attention_op.generate_attention_mask = tree_mask
    return model
