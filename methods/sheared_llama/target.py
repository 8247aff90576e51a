"""The shape that masks are learned to (Xia et al. 2023, arXiv 2310.06694, §2.1). Needs no torch.

Groups of heads are pruned as units: a key-value head leaves with the query heads that read it.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from espalier.errors import InputError
from espalier.models.shapes import Shapes
from espalier.pruning.structured.target import target_shapes

Site = Literal["hidden", "heads", "neurons", "layers"]
SITES: tuple[Site, ...] = ("hidden", "heads", "neurons", "layers")
"""What has masks; a mask of heads has a value for each key-value head."""


@dataclass(frozen=True)
class Sizes:
    """What is asked for, in the words of a user; None leaves a size as the parent's.

    Attributes:
        layers: layers left.
        hidden: channels of the hidden state.
        heads: query heads of each layer.
        ffn: neurons of each layer's MLP.
    """

    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    ffn: int | None = None


PUBLISHED: Mapping[str, Sizes] = {
    "2.7b": Sizes(layers=32, hidden=2560, heads=20, ffn=6912),
    "1.3b": Sizes(layers=24, hidden=2048, heads=16, ffn=5504),
    "370m": Sizes(layers=24, hidden=1024, heads=8, ffn=2816),
}
"""The paper's shapes, pruned from Llama-2-7B (4096 channels, 32 heads, 32 layers, 11008 neurons);
370m is the reference implementation's."""


def sizes_of(target: str) -> Sizes:
    """The sizes of a published target's name, or of a TOML file with any of the four.

    Raises:
        InputError: it is neither, or the file states something else.
    """
    if target.lower() in PUBLISHED:
        return PUBLISHED[target.lower()]
    names = ", ".join(PUBLISHED)
    if not target.endswith(".toml"):
        raise InputError(f"TARGET={target} is not known; give {names} or a .toml file.")
    try:
        stated = tomllib.loads(Path(target).read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"TARGET={target} cannot be read; give {names} or a file.") from None
    except ValueError as error:
        raise InputError(f"TARGET={target} is not a TOML file: {error}.") from None
    known = asdict(Sizes())
    if not stated:
        raise InputError(f"TARGET={target} states no size; give some of {', '.join(known)}.")
    if strange := stated.keys() - known.keys():
        raise InputError(
            f"TARGET={target} states {', '.join(sorted(strange))}; give only {', '.join(known)}."
        )
    return Sizes(**{name: _whole(target, name, size) for name, size in stated.items()})


def _whole(target: str, name: str, size: Any) -> int:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"TARGET={target}: {name} is {size!r}; give a whole number, 1 or more.")
    return size


@dataclass(frozen=True)
class Target:
    """How many units each mask leaves.

    Attributes:
        layers: layers.
        hidden: channels of the hidden state.
        kv_heads: key-value heads of each layer, each with the query heads that read it.
        ffn: neurons of each layer's MLP.
        parent: what they are left of.
    """

    layers: int
    hidden: int
    kv_heads: int
    ffn: int
    parent: Shapes

    @classmethod
    def of(cls, parent: Shapes, sizes: Sizes) -> Self:
        """The target of `sizes`, of which stock models exist.

        Raises:
            InputError: a size is below 1 or above the parent's, the heads are no whole groups, they
                do not divide the channels, or nothing would be removed.
        """
        for name, size in asdict(sizes).items():
            if size is not None and size < 1:
                raise InputError(f"{name.upper()}={size} leaves nothing; give 1 or more.")
        if sizes.layers is not None and sizes.layers > parent.layers:
            raise InputError(
                f"LAYERS={sizes.layers} is above the parent's {parent.layers} layers; give fewer."
            )
        heads = sizes.heads or parent.heads
        if heads > parent.heads:
            raise InputError(
                f"HEADS={heads} is above the parent's {parent.heads} heads; give fewer."
            )
        group = parent.heads // parent.kv_heads
        if heads % group:
            raise InputError(
                f"HEADS={heads} is not a multiple of {group}: {group} heads read each of the "
                "parent's key-value heads and leave together; give "
                f"HEADS={max(heads // group, 1) * group}."
            )
        left = target_shapes(
            parent,
            layers=None if sizes.layers == parent.layers else sizes.layers,
            hidden=sizes.hidden,
            ffn=sizes.ffn,
            kv_heads=heads // group,
        )
        return cls(left.layers, left.hidden, left.kv_heads, left.intermediate, parent)

    @property
    def shapes(self) -> Shapes:
        """Of the model that is left; its head_dim is the parent's."""
        return replace(
            self.parent,
            layers=self.layers,
            hidden=self.hidden,
            intermediate=self.ffn,
            heads=self.kv_heads * (self.parent.heads // self.parent.kv_heads),
            kv_heads=self.kv_heads,
        )

    @property
    def kept(self) -> dict[Site, int]:
        """Units left in each row of a site's masks."""
        return {
            "hidden": self.hidden,
            "heads": self.kv_heads,
            "neurons": self.ffn,
            "layers": self.layers,
        }

    @property
    def sparsity(self) -> dict[Site, float]:
        """The share of each row's units that goes."""
        units, kept = units_of(self.parent), self.kept
        return {site: 1 - kept[site] / units[site] for site in SITES}


def units_of(parent: Shapes) -> dict[Site, int]:
    """Units in each row of a site's masks, before any goes."""
    return {
        "hidden": parent.hidden,
        "heads": parent.kv_heads,
        "neurons": parent.intermediate,
        "layers": parent.layers,
    }


def rows_of(parent: Shapes) -> dict[Site, tuple[int, ...]]:
    """The shape of a site's rows: heads and neurons have one for each layer."""
    return {"hidden": (), "heads": (parent.layers,), "neurons": (parent.layers,), "layers": ()}
