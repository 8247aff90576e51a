"""MaxText's Llama, made to compute what the stock model computes, for any shape.

MaxText folds the queries' scale of 1 / sqrt(head_dim) into their weights, knows one rotary scaling,
by the model's name, and rounds a tied head to bfloat16 whatever the model computes in. All three
would change weights or numbers, so its attention is told the scale and the frequencies of
config.json and its head the model's dtype; everything else is MaxText's own.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from espalier.contract.processes import COMPILED
from training.maxtext_model.shape import inverse_frequencies, model_keys
from training.maxtext_model.upstream import (
    BASE_CONFIG,
    Attention,
    RotaryEmbedding,
    maxtext_utils,
    model_creation_utils,
    nnx_decoders,
    pyconfig,
)

QUIET = {
    "run_name": "espalier",
    "base_output_directory": "/tmp/maxtext",  # noqa: S108 - named in its config, never written
    "log_config": False,
    "enable_checkpointing": False,
    "dataset_type": "synthetic",
    "skip_jax_distributed_system": True,
    "gradient_clipping_threshold": 0.0,
    "opt_type": "adamw",
    "jax_cache_dir": os.environ.get(COMPILED, ""),
}


class StatedRotary(RotaryEmbedding):  # type: ignore[misc]
    """Rotary embedding by frequencies that are stated, not derived."""

    def __init__(self, like: RotaryEmbedding, frequencies: tuple[float, ...]) -> None:
        super().__init__(
            like.min_timescale,
            like.max_timescale,
            like.mesh,
            embedding_dims=2 * len(frequencies),
            cast_as_fprop_dtype=like.cast_as_fprop_dtype,
            fprop_dtype=like.fprop_dtype,
            shard_mode=like.shard_mode,
        )
        self.frequencies = frequencies

    def __call__(self, inputs: jax.Array, position: jax.Array | None = None) -> jax.Array:
        """Turn heads [B, T, N, D] by their positions [B, T]; angles are float32."""
        assert position is not None  # noqa: S101
        frequencies = jnp.asarray(np.array(self.frequencies, np.float32))
        angles = position[:, :, None, None].astype(jnp.float32) * frequencies  # [B, T, 1, D / 2]
        angles = jnp.concatenate([angles, angles], axis=-1)
        cos, sin = (turn(angles).astype(inputs.dtype) for turn in (jnp.cos, jnp.sin))
        turned = self.apply_rotary(inputs, cos, sin)
        return turned.astype(self.fprop_dtype) if self.cast_as_fprop_dtype else turned


def tied_logits(
    hidden: jax.Array, embedding: jax.Array, dtype: Any, config: Any, out_sharding: Any = None
) -> jax.Array:
    """Logits [B, T, V] in `dtype`, of hidden states [B, T, H] and the embedding [V, H]."""
    return jnp.dot(hidden, embedding.astype(dtype).T, preferred_element_type=dtype)


nnx_decoders.attend_on_embedding = tied_logits


@dataclass(frozen=True)
class Model:
    """How to make the model, and where its parts lie.

    Attributes:
        settings: MaxText's configuration.
        create: makes the model, within `jax.jit` or `nnx.eval_shape`.
    """

    settings: Any
    mesh: Mesh
    create: Callable[[], nnx.Module]

    @classmethod
    def of(
        cls, config: Mapping[str, Any], keys: Mapping[str, Any], devices: list[Any] | None = None
    ) -> "Model":
        """The model of a config.json, on these devices or all that there are.

        `keys` are MaxText's, beside those of the model's shape.
        """
        settings = pyconfig.initialize(
            ["", str(BASE_CONFIG)], **{**QUIET, **model_keys(config), **keys}
        )
        mesh = maxtext_utils.get_mesh_from_config(settings, devices)
        create, _ = model_creation_utils.create_nnx_abstract_model(settings, mesh)
        frequencies = tuple(map(float, inverse_frequencies(config)))

        def exact() -> nnx.Module:
            return _exact(create(), frequencies)

        return cls(settings, mesh, exact)


def _exact(model: nnx.Module, frequencies: tuple[float, ...]) -> nnx.Module:
    """The model with every attention scaling and rotating as the stock one."""
    for _, module in nnx.iter_graph(model):
        if isinstance(module, Attention):
            module.query_pre_attn_scalar = module.head_dim**-0.5
            module.rotary_embedding = StatedRotary(module.rotary_embedding, frequencies)
    return model
