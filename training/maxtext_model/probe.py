"""Logits on random tokens, for the stock model to be compared with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.linen import logical_axis_rules
from safetensors.numpy import save_file

from espalier.contract.manifest import LOGITS
from espalier.models.shapes import Shapes
from training.maxtext_model.checkpoint import Arrays
from training.maxtext_model.model import Model
from training.maxtext_model.shape import stored_dtype

TOKENS = 64
"""Of a sequence; their positions are spread over the whole context, as far as its end."""
SEQUENCES = 1


def probe(
    config: Mapping[str, Any], arrays: Arrays, scratch: Path, keys: Mapping[str, Any]
) -> None:
    """Leave the logits of these weights, computed in float32, in the stage's scratch folder.

    Weights count as the checkpoint stores them; `keys` are MaxText's of the hardware and of the
    layers' layout. Every process takes part, and the first one writes.
    """
    shapes = Shapes.of(config)
    tokens = min(TOKENS, shapes.positions)
    devices = jax.device_count()
    random = np.random.default_rng(0)
    ids = random.integers(0, shapes.vocabulary, (devices, tokens), np.int32)
    inner = random.choice(shapes.positions - 1, tokens - 1, replace=False)
    positions = np.sort(np.append(inner, shapes.positions - 1)).astype(np.int32)
    model = Model.of(
        config,
        {
            **keys,
            "dtype": "float32",
            "weight_dtype": "float32",
            "matmul_precision": "highest",
            "attention": "dot_product",
            "per_device_batch_size": 1,
            "max_target_length": tokens,
        },
    )
    stored = jnp.dtype(stored_dtype(config))

    def logits(arrays: Arrays) -> jax.Array:
        made = model.create()
        flat = nnx.to_flat_state(nnx.state(made, nnx.Param))
        nnx.update(
            made,
            nnx.from_flat_state((path, v.replace(arrays[path].astype(stored))) for path, v in flat),
        )
        found: jax.Array = made(
            decoder_input_tokens=jnp.asarray(ids),
            decoder_positions=jnp.asarray(np.broadcast_to(positions, ids.shape)),
            decoder_segment_ids=jnp.ones_like(ids),
            enable_dropout=False,
        )
        return found[:SEQUENCES]

    everywhere = jax.sharding.NamedSharding(model.mesh, jax.sharding.PartitionSpec())
    with jax.set_mesh(model.mesh), logical_axis_rules(model.settings.logical_axis_rules):
        found = jax.jit(logits, out_shardings=everywhere)(arrays)
    if jax.process_index() == 0:
        save_file(
            {
                "input_ids": ids[:SEQUENCES].astype(np.int64),
                "positions": positions.astype(np.int64),
                "logits": np.asarray(found.addressable_data(0), np.float32),
            },
            scratch / LOGITS,
        )
