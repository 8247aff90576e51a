"""A decoder's shapes read from config.json. Needs no torch: the host plans with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espalier.contract.json_text import NotJson, from_json, read_json
from espalier.errors import InputError

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

MOST = 2**31
"""Above each size of any model; what torch counts with holds the products of two."""

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
        heads, hidden = count_in(config, "num_attention_heads"), count_in(config, "hidden_size")
        return cls(
            hidden=hidden,
            intermediate=count_in(config, "intermediate_size"),
            layers=count_in(config, "num_hidden_layers"),
            heads=heads,
            kv_heads=count_in(config, "num_key_value_heads", heads),
            head_dim=count_in(config, "head_dim", max(hidden // heads, 1)),
            vocabulary=count_in(config, "vocab_size"),
            positions=count_in(config, "max_position_embeddings", 2048),
            tied=bool(config.get("tie_word_embeddings", False)),
            item_bytes=DTYPE_BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 4),
        )

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


def count_in(config: Mapping[str, Any], key: str, otherwise: int | None = None) -> int:
    """A size that a config.json states; `otherwise` where it states none.

    Raises:
        InputError: it is none that a model can have.
    """
    stated = config.get(key)
    if stated is None and otherwise is not None:
        return otherwise
    if isinstance(stated, bool) or not isinstance(stated, int | float):
        raise InputError(
            f"config.json does not state the model's sizes: {key} is {_shown(stated)}; give a "
            "whole number."
        )
    if not 0 < stated < MOST or stated != int(stated):
        raise InputError(
            f"config.json states {key} as {_shown(stated)}, which no model has; give a whole "
            f"number from 1 to {MOST - 1}."
        )
    return int(stated)


def _shown(value: Any) -> str:
    return "missing" if value is None else ascii(value)[:40]


def config_file(path: Path) -> dict[str, Any]:
    """The content of a config.json that is given by itself.

    Raises:
        InputError: it is none.
    """
    try:
        config = from_json(path.read_bytes())
    except (OSError, NotJson):
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
    try:
        config = read_json(path, "give a number or null there, or fetch the model again")
    except OSError:
        raise InputError(f"{directory} has no config.json; it is not a model.") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a JSON object; fetch the model again.")
    return config
