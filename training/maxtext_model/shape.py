"""A model's shape as MaxText is told it, derived from its config.json alone. Needs no JAX."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from espalier.errors import InputError
from espalier.models.shapes import Shapes

ROPE_TYPES = ("default", "linear", "llama3")
WITHOUT_BIASES = "; where a pruning has added them, prune with BIAS=0"


def model_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """MaxText's keys for the decoder that a config.json describes.

    Raises:
        InputError: MaxText's Llama decoder does not support something in it.
    """
    shapes = Shapes.of(config)
    _check_supported(config)
    inverse_frequencies(config)
    return {
        "model_name": "default",
        "override_model_config": True,
        "decoder_block": "llama2",
        "base_emb_dim": shapes.hidden,
        "base_num_query_heads": shapes.heads,
        "base_num_kv_heads": shapes.kv_heads,
        "base_mlp_dim": shapes.intermediate,
        "base_num_decoder_layers": shapes.layers,
        "head_dim": shapes.head_dim,
        "vocab_size": shapes.vocabulary,
        "mlp_activations": ["silu", "linear"],
        "normalization_layer_epsilon": float(config.get("rms_norm_eps", 1e-6)),
        "logits_via_embedding": shapes.tied,
        "normalize_embedding_logits": False,
        "rope_type": "default",
        "rope_use_scale": False,
        "enable_dropout": False,
    }


def stored_dtype(config: Mapping[str, Any]) -> str:
    """What config.json states its weights to be."""
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def inverse_frequencies(config: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Radians a position of each pair of a head's dimensions, float32 [head_dim / 2].

    Half-split layout (dimension i turns with i + head_dim / 2), as Hugging Face's Llama has it.
    Su et al., 2021, section 3.2.2; `llama3` scaling as Dubey et al., 2024, section 3.2, use it.

    Raises:
        InputError: a kind of scaling that changes with the sequence, or that is not known.
    """
    head_dim = Shapes.of(config).head_dim
    rope = {"rope_theta": config.get("rope_theta"), **(config.get("rope_scaling") or {})}
    rope |= config.get("rope_parameters") or {}
    theta = float(rope.get("rope_theta") or 10000.0)
    kind = str(rope.get("rope_type") or rope.get("type") or "default")
    if kind not in ROPE_TYPES:
        raise InputError(
            f"rotary scaling of type {kind} cannot be given to MaxText; it takes "
            f"{', '.join(ROPE_TYPES)}."
        )
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (np.float32(1) / np.float32(theta) ** exponents).astype(np.float32)
    if kind == "linear":
        return np.asarray(frequencies / np.float32(rope["factor"]), np.float32)
    return _scaled_by_wavelength(frequencies, rope) if kind == "llama3" else frequencies


def _scaled_by_wavelength(
    frequencies: npt.NDArray[np.float32], rope: Mapping[str, Any]
) -> npt.NDArray[np.float32]:
    """Slow dimensions turn `factor` times slower, fast ones as before, those between in between."""
    factor, length = float(rope["factor"]), float(rope["original_max_position_embeddings"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    wavelengths = 2 * math.pi / frequencies
    between = np.clip((length / wavelengths - low) / (high - low), 0, 1).astype(np.float32)
    slow = frequencies / np.float32(factor)
    return np.asarray((1 - between) * slow + between * frequencies, np.float32)


def _check_supported(config: Mapping[str, Any]) -> None:
    family = config.get("model_type")
    extras = {
        "biases of attention": config.get("attention_bias"),
        "biases of the MLP": config.get("mlp_bias"),
        "a sliding window": family == "mistral" and config.get("sliding_window"),
        f"activation {config.get('hidden_act')}": config.get("hidden_act", "silu") != "silu",
        f"family {family}": family not in ("llama", "mistral"),
    }
    for what, found in extras.items():
        if found:
            advice = WITHOUT_BIASES if what.startswith("biases") else ""
            raise InputError(
                f"the model has {what}, which MaxText's Llama does not support{advice}."
            )
