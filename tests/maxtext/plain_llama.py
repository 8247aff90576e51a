"""A Llama by its formulas in numpy and float64, one request at a time: what rows are held to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from espalier.contract.json_text import to_json
from espalier.models.shapes import Shapes
from eval.requests.request import Request
from tests.tiny_tokenizer import SHAPE, tokenizer
from training.maxtext_model.names import weights
from training.maxtext_model.shape import inverse_frequencies

CONFIG: dict[str, Any] = {
    **SHAPE, "model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "hidden_act": "silu", "dtype": "float32", "tie_word_embeddings": False,
}  # fmt: skip
Array = NDArray[np.float64]


def random_checkpoint(directory: Path, scale: float = 0.3, **changes: Any) -> dict[str, Any]:
    """Random weights, large enough for a wrong mask to be seen, and a tokenizer; its config."""
    config = {**CONFIG, **changes}
    random = np.random.default_rng(0)
    tensors = {}
    for weight in weights(Shapes.of(config), scanned=False):
        values = random.standard_normal(weight.stored)
        is_norm = len(weight.stored) == 1
        tensors[weight.name] = (1 + 0.1 * values if is_norm else scale * values).astype(np.float32)
    tokenizer().save_pretrained(directory)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(to_json(config))
    return config


class PlainLlama:
    """A checkpoint, whole in memory."""

    def __init__(self, directory: Path, config: Mapping[str, Any]) -> None:
        found = load_file(directory / "model.safetensors")
        self._weights = {name: tensor.astype(np.float64) for name, tensor in found.items()}
        self._shapes, self._epsilon = Shapes.of(config), config["rms_norm_eps"]
        self._frequencies = inverse_frequencies(config).astype(np.float64)

    def score(self, requests: Sequence[Request]) -> tuple[list[float], list[bool]]:
        """Of each request by itself the sum of its targets' log-probabilities, and if greedy."""
        sums, greedy = [], []
        for request in requests:
            logits = self.logits(request.inputs)[-len(request.targets) :]
            peak = logits.max(axis=-1, keepdims=True)
            totals = peak[:, 0] + np.log(np.exp(logits - peak).sum(axis=-1))
            asked = np.take_along_axis(logits, request.targets[:, None].astype(int), axis=1)[:, 0]
            sums.append(float((asked - totals).sum()))
            greedy.append(bool((logits.argmax(axis=-1) == request.targets).all()))
        return sums, greedy

    def logits(self, ids: NDArray[np.int32]) -> Array:
        """[T, V] of ids [T]."""
        shapes, w = self._shapes, self._weights
        states = w["model.embed_tokens.weight"][ids]
        for layer in range(shapes.layers):
            states = self._layer(states, f"model.layers.{layer}")
        head = w["model.embed_tokens.weight" if shapes.tied else "lm_head.weight"]
        return self._norm(states, "model.norm") @ head.T

    def _layer(self, states: Array, name: str) -> Array:
        shapes, w = self._shapes, self._weights
        tokens = len(states)
        read = self._norm(states, f"{name}.input_layernorm")
        q, k, v = (
            (read @ w[f"{name}.self_attn.{part}_proj.weight"].T).reshape(
                tokens, -1, shapes.head_dim
            )
            for part in "qkv"
        )
        each = shapes.heads // shapes.kv_heads
        k, v = (np.repeat(part, each, axis=1) for part in (k, v))
        scores = np.einsum("tnd,snd->nts", self._turn(q), self._turn(k)) / shapes.head_dim**0.5
        scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = np.einsum("nts,snd->tnd", scores / scores.sum(axis=-1, keepdims=True), v)
        states = states + mixed.reshape(tokens, -1) @ w[f"{name}.self_attn.o_proj.weight"].T
        read = self._norm(states, f"{name}.post_attention_layernorm")
        gate, up = (read @ w[f"{name}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        return states + (gate / (1 + np.exp(-gate)) * up) @ w[f"{name}.mlp.down_proj.weight"].T

    def _norm(self, states: Array, name: str) -> Array:
        size = np.sqrt((states**2).mean(axis=-1, keepdims=True) + self._epsilon)
        return states / size * self._weights[f"{name}.weight"]

    def _turn(self, heads: Array) -> Array:
        """[T, N, D] by their positions, halves of a head together."""
        angles = np.arange(len(heads))[:, None, None] * self._frequencies
        first, second = np.split(heads, 2, axis=-1)
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
