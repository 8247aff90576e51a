"""From a parent's weights and final masks to a plain model of exactly the target's shape.

A mask's soft values go into the weights that give what they multiply: a neuron's into its row of
up_proj, a head's into its rows of v_proj, a layer's and a channel's into what o_proj and down_proj
add to the hidden state. The channels' go once into the embedding and once into each norm's gains.
The head reads the last norm, so that they are in what it is given and not in itself - where the two
are tied, they are in the head with the embedding, and the last norm's gains stay as they are.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from espalier.errors import InputError
from espalier.models.axes import Axis, axes_of
from espalier.pruning.structured.restructure import head_rows
from methods.sheared_llama.masks import Drawn
from methods.sheared_llama.target import Site, Target

LAYER = "model.layers."
EMBEDDING, LAST_NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
INTO_ROWS: Mapping[str, Axis] = {
    "input_layernorm": "hidden",
    "post_attention_layernorm": "hidden",
    "self_attn.v_proj": "keys",
    "self_attn.o_proj": "hidden",
    "mlp.up_proj": "intermediate",
    "mlp.down_proj": "hidden",
}
"""Parts of a layer into whose rows, gains or biases a mask goes, and which mask."""
INTO_HIDDEN = ("self_attn.o_proj", "mlp.down_proj")
"""Those that add to the hidden state: the layer's mask goes into them, too."""


@dataclass(frozen=True)
class Extraction:
    """What final masks leave of a parent.

    Attributes:
        masks: exactly the target's units of each row are not 0; on the CPU.
        target: the shape that is left.
    """

    masks: Drawn
    target: Target

    def __post_init__(self) -> None:
        """Refuse masks that leave another shape.

        Raises:
            InputError: they do, or the heads or neurons left differ between layers.
        """
        kept = self.target.kept
        for site, values in self.masks.items():
            rows = values if values.dim() == 1 else values[list(self.layers)]
            counts = sorted(set(rows.count_nonzero(dim=-1).reshape(-1).tolist()))
            if counts != [kept[site]]:
                found = " or ".join(map(str, counts))
                each = " in each layer" if values.dim() == 2 else ""
                raise InputError(
                    f"the masks leave {found} {_WORDS[site]} where the target has {kept[site]}"
                    f"{each}; take the final masks of a mask learning to this target."
                )

    @property
    def layers(self) -> tuple[int, ...]:
        """The parent's layers that are left, in order."""
        return _places(self.masks.layers)

    def sources(self, names: Iterable[str]) -> dict[str, str]:
        """From the names of the new tensors to the parent's; layers are numbered anew.

        Args:
            names: of the parent's tensors; a tied head must not be among them.
        """
        new = {old: str(place) for place, old in enumerate(self.layers)}
        found = {}
        for name in names:
            if not name.startswith(LAYER):
                found[name] = name
                continue
            number, _, rest = name.removeprefix(LAYER).partition(".")
            if int(number) in new:
                found[f"{LAYER}{new[int(number)]}.{rest}"] = name
        return found

    def shape(self, name: str, stored: tuple[int, ...]) -> tuple[int, ...]:
        """What is left of a tensor of the parent's, from its shape as it is stored."""
        places = self._places_of(name)
        return tuple(
            size if axis not in places else len(places[axis])
            for axis, size in zip(axes_of(name), stored, strict=True)
        )

    def tensor(self, name: str, stored: Tensor) -> Tensor:
        """What is left of a tensor of the parent's with its masks, in the dtype that it has.

        Products are taken in float32, or in float64 where that is stored.
        """
        places, axes = self._places_of(name), axes_of(name)
        left = stored
        for dimension, axis in enumerate(axes):
            if axis in places:
                index = torch.tensor(places[axis], dtype=torch.int64, device=stored.device)
                left = left.index_select(dimension, index)
        factors = self._factors(name)
        if factors is None:
            return left
        wide = left.to(torch.promote_types(left.dtype, torch.float32))
        along = factors.to(wide)
        rows = name != EMBEDDING and wide.dim() == 2  # an embedding's columns are channels
        return (wide * (along[:, None] if rows else along)).to(stored.dtype)

    def _places_of(self, name: str) -> dict[Axis, tuple[int, ...]]:
        """What is left of each axis that is cut, in the layer of a tensor of the parent's."""
        hidden = _places(self.masks.hidden)
        if not name.startswith(LAYER):
            return {"hidden": hidden}
        layer, parent = _layer_of(name), self.target.parent
        heads, group = _places(self.masks.heads[layer]), parent.heads // parent.kv_heads
        queries = [head * group + query for head in heads for query in range(group)]
        return {
            "hidden": hidden,
            "intermediate": _places(self.masks.neurons[layer]),
            "keys": tuple(head_rows(heads, parent.head_dim).tolist()),
            "queries": tuple(head_rows(queries, parent.head_dim).tolist()),
        }

    def _factors(self, name: str) -> Tensor | None:
        """What a tensor is multiplied by, along the axis that a mask goes into."""
        hidden = _left(self.masks.hidden)
        if not name.startswith(LAYER):
            masked = (EMBEDDING,) if self.target.parent.tied else (EMBEDDING, LAST_NORM)
            return hidden if name in masked else None
        layer = _layer_of(name)
        part = name.removeprefix(f"{LAYER}{layer}.").rpartition(".")[0]
        axis = INTO_ROWS.get(part)
        if axis == "keys":
            heads = _left(self.masks.heads[layer])
            return heads.repeat_interleave(self.target.parent.head_dim)
        if axis == "intermediate":
            return _left(self.masks.neurons[layer])
        if axis == "hidden":
            return hidden * self.masks.layers[layer] if part in INTO_HIDDEN else hidden
        return None


def extracted(
    names: Iterable[str], lookup: Callable[[str], Tensor], masks: Drawn, target: Target
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the new model, one at a time, in the order of the parent's.

    Args:
        names: of the parent's tensors, as a stock model names them; a tied head is left out.
        lookup: from such a name to the tensor.
        masks: the final ones.
        target: the shape that is left.

    Raises:
        InputError: the masks leave another shape.
    """
    extraction = Extraction(masks, target)
    stored = (name for name in names if not (target.parent.tied and name == HEAD))
    for new, old in extraction.sources(stored).items():
        yield new, extraction.tensor(old, lookup(old))


_WORDS: Mapping[Site, str] = {
    "hidden": "channels",
    "heads": "key-value heads",
    "neurons": "neurons",
    "layers": "layers",
}


def _places(values: Tensor) -> tuple[int, ...]:
    return tuple(values.nonzero()[:, 0].tolist())


def _left(values: Tensor) -> Tensor:
    return values[values != 0]


def _layer_of(name: str) -> int:
    return int(name.removeprefix(LAYER).partition(".")[0])
