"""The logits of a state dict in Composer's names, by plain tensor products in float32.

Written from the definition (Touvron et al., 2023; rotary embedding: Su et al., 2021) and not from
the stock model, with which it is compared. Shapes: B rows, T tokens, D hidden, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from espalier.contract.manifest import LOGITS
from espalier.models.shapes import Shapes
from training.conversion.composer_config import THETA
from training.conversion.composer_names import EMBEDDING, FINAL_NORM, HEAD, in_block

TOKENS = 64
"""Of the row that is compared; their positions are spread over all that the model takes."""


@dataclass(frozen=True)
class ComposerModel:
    """The weights by name, and what no tensor says.

    Attributes:
        state: float tensors; a head that is not there is the embedding.
        shapes: sizes.
        epsilon: added to the mean square in a norm.
    """

    state: Mapping[str, Tensor]
    shapes: Shapes
    epsilon: float

    @classmethod
    def of(cls, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> "ComposerModel":
        """Of weights whose config.json has this content."""
        return cls(state, Shapes.of(config), float(config.get("rms_norm_eps", 1e-6)))

    def logits(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Logits float32 [B, T, V] of ids int64 [B, T] at ascending positions int64 [T]."""
        hidden = self._weight(EMBEDDING)[input_ids]
        turns = rotations(positions, self.shapes.head_dim)
        for block in range(self.shapes.layers):
            hidden = hidden + self._attention(block, hidden, turns)
            hidden = hidden + self._mlp(block, hidden)
        normed = self._norm(FINAL_NORM, hidden)
        return normed @ self._weight(HEAD if HEAD in self.state else EMBEDDING).T

    def _attention(self, block: int, hidden: Tensor, turns: Tensor) -> Tensor:
        normed = self._norm(in_block(block, "ln_1"), hidden)
        queries, keys, values = (self._heads(block, f"attn.{name}", normed) for name in _QKV)
        groups = self.shapes.heads // self.shapes.kv_heads
        keys, values = (
            part.repeat_interleave(groups, dim=1) for part in (_turned(keys, turns), values)
        )
        scores = _turned(queries, turns) @ keys.transpose(-1, -2) / self.shapes.head_dim**0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        context = (weights @ values).transpose(1, 2).flatten(2)
        return context @ self._weight(in_block(block, "attn.out_proj")).T

    def _mlp(self, block: int, hidden: Tensor) -> Tensor:
        normed = self._norm(in_block(block, "ln_2"), hidden)
        gate, up, down = (self._weight(in_block(block, f"mlp.{name}_proj")) for name in _MLP)
        gated = normed @ gate.T
        return (gated * gated.sigmoid() * (normed @ up.T)) @ down.T

    def _heads(self, block: int, name: str, normed: Tensor) -> Tensor:
        """[B, heads, T, head_dim]."""
        found = normed @ self._weight(in_block(block, name)).T
        return found.unflatten(-1, (-1, self.shapes.head_dim)).transpose(1, 2)

    def _norm(self, name: str, hidden: Tensor) -> Tensor:
        size = hidden.square().mean(-1, keepdim=True) + self.epsilon
        return hidden / size.sqrt() * self._weight(name)

    def _weight(self, name: str) -> Tensor:
        return self.state[name].float()


_QKV, _MLP = ("wq", "wk", "wv"), ("gate", "up", "down")


def rotations(positions: Tensor, width: int) -> Tensor:
    """Unit complex numbers [T, width / 2], by which positions turn pairs of a head's dimensions."""
    exponents = torch.arange(0, width, 2, dtype=torch.float32) / width
    angles = positions.float()[:, None] * (1.0 / THETA**exponents)
    return torch.polar(torch.ones_like(angles), angles)


def _turned(heads: Tensor, turns: Tensor) -> Tensor:
    """Dimension i is paired with i + width / 2."""
    real, imaginary = heads.chunk(2, dim=-1)
    turned = torch.complex(real.contiguous(), imaginary.contiguous()) * turns
    return torch.cat((turned.real, turned.imag), dim=-1)


def probe(state: Mapping[str, Tensor], config: Mapping[str, Any], scratch: Path) -> None:
    """Leave the logits of these weights in a stage's scratch folder, to be compared."""
    model = ComposerModel.of(state, config)
    generator = torch.Generator().manual_seed(0)
    tokens = min(TOKENS, model.shapes.positions)
    ids = torch.randint(0, model.shapes.vocabulary, (1, tokens), generator=generator)
    spread = torch.randperm(model.shapes.positions, generator=generator)[:tokens]
    positions = spread.sort().values
    with torch.inference_mode():
        found = model.logits(ids, positions)
    save_file({"input_ids": ids, "positions": positions, "logits": found}, scratch / LOGITS)
