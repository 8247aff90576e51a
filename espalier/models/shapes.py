"""A decoder's shapes read from config.json. Needs no torch: the host plans with them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espalier.errors import InputError

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

SLICES = "pretraining_tp"
"""The setting by which older versions of transformers compute with slices of matrices."""

INPUT_GROUPS: tuple[tuple[str, ...], ...] = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
"""A layer's matrices in the order they are used; those of one group read the same input."""


@dataclass(frozen=True)
class Shapes:
    """Widths and counts of a Llama-like decoder.

    Attributes:
        item_bytes: bytes of a weight as config.json states it.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    positions: int
    tied: bool
    item_bytes: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shapes":
        """Read a config.json's content.

        Raises:
            InputError: another family than those supported, or a size is missing.
        """
        family = config.get("model_type")
        if family not in SUPPORTED:
            raise InputError(
                f"model_type {family} is not supported; supported families: {', '.join(SUPPORTED)}."
            )
        if config.get("quantization_config"):
            raise InputError(
                "the checkpoint is quantized; give one with float32, bfloat16 or float16 weights."
            )
        try:
            heads = int(config["num_attention_heads"])
            hidden = int(config["hidden_size"])
            return cls(
                hidden=hidden,
                intermediate=int(config["intermediate_size"]),
                layers=int(config["num_hidden_layers"]),
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or hidden // heads),
                vocabulary=int(config["vocab_size"]),
                positions=int(config.get("max_position_embeddings") or 2048),
                tied=bool(config.get("tie_word_embeddings", False)),
                item_bytes=DTYPE_BYTES.get(
                    str(config.get("dtype") or config.get("torch_dtype")), 4
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"config.json does not state the model's sizes: {error}.") from None

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """[outputs, inputs] of a layer's seven matrices, by name within the layer."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (q, self.hidden),
            "self_attn.k_proj": (kv, self.hidden),
            "self_attn.v_proj": (kv, self.hidden),
            "self_attn.o_proj": (self.hidden, q),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }

    @property
    def layer_parameters(self) -> int:
        return sum(rows * columns for rows, columns in self.matrices.values())

    @property
    def parameters(self) -> int:
        """All parameters; norms and biases, a thousandth part, are left out."""
        ends = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * self.layer_parameters + ends


def config_file(path: Path) -> dict[str, Any]:
    """The content of a config.json that is given by itself.

    Raises:
        InputError: it is none.
    """
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a config.json; give a model or such a file.")
    return unsliced(config)


def read_config(directory: Path) -> dict[str, Any]:
    """The content of a directory's config.json, as everything here computes with it.

    A `pretraining_tp` above 1 becomes 1. It asks older versions of transformers to multiply slices
    of the matrices one by one, by which nothing changes but the rounding - except that the matrices
    are never called, so that nothing that observes them is given anything.

    Raises:
        InputError: it is absent or not a JSON object.
    """
    return unsliced(_stated_config(directory))


def unsliced(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json's content with products that are computed whole."""
    return {**config, SLICES: 1} if _is_sliced(config) else dict(config)


def is_model(path: Path) -> bool:
    """Whether a directory has a config.json."""
    return (path / "config.json").is_file()


def config_notes(directory: Path) -> dict[str, str]:
    """What of a directory's config.json is not computed as it stands there, for a manifest."""
    config = _stated_config(directory)
    if not _is_sliced(config):
        return {}
    return {SLICES: f"config.json says {config[SLICES]}; computed and published as 1"}


def _is_sliced(config: Mapping[str, Any]) -> bool:
    return config.get(SLICES) not in (None, 1)


def _stated_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"

    def not_json(constant: str) -> None:
        raise InputError(
            f"{path} holds {constant}, which JSON does not have; put a number or null in its place."
        )

    try:
        config = json.loads(path.read_text(), parse_constant=not_json)
    except OSError:
        raise InputError(f"{directory} has no config.json; it is not a model.") from None
    except ValueError:
        raise InputError(f"{path} is not JSON; fetch the model again.") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a JSON object; fetch the model again.")
    return config
