"""What was pruned of a model, as its manifest says it: a type for each kind of result.

- `masked`: weights are exactly zero where they stood; the shape is the parent's.
- `uniform`: another shape, which config.json states: every layer has the same widths.
- `padded`: layers of different widths, stored with zeros up to the widest, so that stock loaders
  read them; the true widths and the places of the zeros are here.
- `foreign`: what no stock architecture has; a declared form that one image's own loader reads.

Training, gates, conversions, evaluation and plans go by the type.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

from espalier.contract.pattern import Pattern

PaddedAxis = Literal["heads", "kv_heads", "intermediate"]
PADDED_AXES: tuple[PaddedAxis, ...] = ("heads", "kv_heads", "intermediate")
"""The widths in which layers may differ; the residual stream is as wide in all of them."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Size = Annotated[int, Field(ge=1, lt=2**31)]
Heads = Annotated[int, Field(ge=1, le=2**16)]
"""No model has nearly as many."""


class Sizes(_Part):
    """Every size of a decoder that pruning may change."""

    layers: Size
    hidden: Size
    intermediate: Size
    heads: Heads
    kv_heads: Heads


class KeptIndices(_Part):
    """Which of the parent's parts a model consists of, in the order in which it holds them.

    None keeps all of an axis, in the parent's order.

    Attributes:
        layers: the parent's layers.
        hidden: channels of the residual stream, the same in all layers.
        intermediate: FFN neurons of each kept layer; of a padded one those that are no padding.
        heads: query heads, as `intermediate`.
        kv_heads: key-value heads, as `intermediate`.
    """

    layers: tuple[int, ...]
    hidden: tuple[int, ...] | None = None
    intermediate: tuple[tuple[int, ...], ...] | None = None
    heads: tuple[tuple[int, ...], ...] | None = None
    kv_heads: tuple[tuple[int, ...], ...] | None = None


class MaskedLayer(_Part):
    """One layer's zeros.

    Attributes:
        sparsity: fraction of its matrices' entries.
        zeros: how many.
        inherited: how many of them were zero in the parent.
        matrices: fraction of each matrix's entries, by its name in the layer.
        notes: what the method says of the layer, by the first matrix that reads the same input.
    """

    layer: int
    sparsity: float
    zeros: int
    inherited: int = 0
    matrices: dict[str, float]
    notes: dict[str, Any] = Field(default_factory=dict)


class Masked(_Part):
    """Weights of the layers' matrices are zero in place.

    Attributes:
        pattern: `unstructured` or N:M.
        target: fraction of zeros that was asked for.
        attainable: what of it the method can attain at these widths, and what the parent had beyond
            it in any matrix; None: all of it.
        achieved: fraction of zeros counted.
        inherited: fraction that was zero in the parent.
        dead: fraction whose input was never anything but zero, where the method zeroes those.
        untouched: matrices, by their names in a layer, of which the target is less than one weight.
        policy: training keeps the zeros unless it is told otherwise.
        products: how the method's matrix products were computed.
    """

    kind: Literal["masked"] = "masked"
    pattern: str
    target: float
    attainable: float | None = None
    achieved: float
    inherited: float = 0.0
    dead: float = 0.0
    untouched: tuple[str, ...] = ()
    layers: tuple[MaskedLayer, ...] = ()
    policy: Literal["preserve"] = "preserve"
    products: str | None = None

    @property
    def mask_pattern(self) -> Pattern:
        return Pattern.parse(self.pattern)

    def __str__(self) -> str:
        own = f" ({self.inherited:.4f} in the parent)" if self.inherited else ""
        return f"sparsity {self.achieved:.4f}{own} achieved, pattern {self.pattern}"


class Uniform(_Part):
    """Another shape, the same in every layer, as config.json states it.

    Attributes:
        before: the parent's sizes; None: a manifest of an older form does not say.
        after: the sizes that are left.
        achieved: fraction of the parent's parameters that is gone, norms and biases aside.
        kept: what of the parent is left.
        dropped_layers: the parent's layers that are gone, ascending.
        removal_order: the same, the first to go first, where the method has an order.
        rotated: the residual stream has a basis of its own, so that none of its channels is one of
            the parent's and `kept.hidden` has nothing to say of them.
    """

    kind: Literal["uniform"] = "uniform"
    before: Sizes | None
    after: Sizes
    achieved: float
    kept: KeptIndices
    dropped_layers: tuple[int, ...] = ()
    removal_order: tuple[int, ...] | None = None
    rotated: bool = False

    @property
    def structure(self) -> str:
        """`depth`, `width` or `depth+width`."""
        kept = self.kept
        indices = (kept.hidden, kept.intermediate, kept.heads)
        width = self.rotated or any(axis is not None for axis in indices)
        cut = {"depth": bool(self.dropped_layers), "width": width}
        return "+".join(name for name, is_cut in cut.items() if is_cut)

    def __str__(self) -> str:
        left = ", ".join(f"{size} {name}" for name, size in self.after)
        return f"{self.structure}: {self.achieved:.1%} removed; left {left}"


class PaddedLayer(_Part):
    """One layer's true widths, and where its padding lies.

    Attributes:
        padding: by axis, the ranges [first, end) of heads or neurons that are nothing but zeros.
    """

    heads: int = Field(ge=0)
    kv_heads: int = Field(ge=0)
    intermediate: int = Field(ge=0)
    padding: dict[PaddedAxis, tuple[tuple[int, int], ...]] = Field(default_factory=dict)

    def is_padding(self, axis: PaddedAxis, index: int) -> bool:
        return any(first <= index < end for first, end in self.padding.get(axis, ()))

    def true_places(self, axis: PaddedAxis, size: int) -> tuple[int, ...]:
        """Of an axis stored with `size` heads or neurons, those that are no padding, ascending."""
        padding = {
            place for first, end in self.padding.get(axis, ()) for place in range(first, end)
        }
        return tuple(place for place in range(size) if place not in padding)


class Padded(_Part):
    """Layers of different widths in the uniform shape of the widest, zeros making the difference.

    The zeros are no weights: they stay zero whatever a training's POLICY is, for else the true
    widths would no longer be true.

    Attributes:
        before: the parent's sizes.
        after: the sizes on disk, as config.json states them.
        achieved: fraction of the parent's parameters that is gone, the padding counted as gone.
        layers: the true widths of each layer.
        kept: what of the parent is left.
    """

    kind: Literal["padded"] = "padded"
    before: Sizes
    after: Sizes
    achieved: float
    layers: tuple[PaddedLayer, ...]
    kept: KeptIndices | None = None
    policy: Literal["preserve"] = "preserve"

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if len(self.layers) != self.after.layers:
            raise ValueError(f"{len(self.layers)} widths for {self.after.layers} layers")
        for number, layer in enumerate(self.layers):
            for axis in PADDED_AXES:
                self._check_axis(number, layer, axis)
            self._check_heads(number, layer)
        return self

    def _check_axis(self, number: int, layer: PaddedLayer, axis: PaddedAxis) -> None:
        """The ranges ascend, lie within the axis and leave its true width, and what is kept."""
        ranges, size = layer.padding.get(axis, ()), getattr(self.after, axis)
        if any(first < end for (_, end), (first, _) in pairwise(ranges)) or any(
            not 0 <= first < end <= size for first, end in ranges
        ):
            raise ValueError(f"the padding of layer {number}'s {axis} must be ascending ranges")
        width = size - sum(end - first for first, end in ranges)
        if width != getattr(layer, axis):
            raise ValueError(
                f"layer {number} has {getattr(layer, axis)} {axis} and its padding leaves {width}"
            )
        kept = None if self.kept is None else getattr(self.kept, axis)
        if kept is not None and (len(kept) != len(self.layers) or len(kept[number]) != width):
            raise ValueError(f"layer {number} has {width} {axis} and other numbers are kept")

    def _check_heads(self, number: int, layer: PaddedLayer) -> None:
        """A query head that is no padding reads a key-value head that is none."""
        group = max(self.after.heads // self.after.kv_heads, 1)
        for head in range(self.after.heads):
            reads_padding = layer.is_padding("kv_heads", head // group)
            if reads_padding and not layer.is_padding("heads", head):
                raise ValueError(f"head {head} of layer {number} reads a key-value head of padding")

    def __str__(self) -> str:
        widths = ", ".join(
            f"{_span([getattr(layer, axis) for layer in self.layers])} of "
            f"{getattr(self.after, axis)} {axis}"
            for axis in PADDED_AXES
        )
        return f"padded: {self.achieved:.1%} removed; true widths {widths}"


class Foreign(_Part):
    """What no stock architecture has.

    Attributes:
        form: the declared form, which stages that can read it name.
        description: what is foreign in it, in words that follow "it has".
        image: the image whose stages read it.
        achieved: fraction of the parent's parameters that is gone.
        facts: what the loader needs to be told.
    """

    kind: Literal["foreign"] = "foreign"
    form: str
    description: str
    image: str
    achieved: float
    facts: dict[str, Any] = Field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.form}: {self.achieved:.1%} removed; read by image {self.image} alone"


Pruned: TypeAlias = Annotated[Masked | Uniform | Padded | Foreign, Field(discriminator="kind")]


def _of_any_form(value: Any) -> Any:
    """What manifests of before the kinds hold, as they are now."""
    if not isinstance(value, Mapping) or "kind" in value:
        return value
    if "pattern" in value:
        return {"kind": "masked", **{k: v for k, v in value.items() if k != "structure"}}
    try:
        return _older_uniform(value) if "kept_layers" in value else value
    except (LookupError, TypeError, AttributeError):
        raise ValueError("is of no form that is known") from None


def _older_uniform(value: Mapping[str, Any]) -> dict[str, Any]:
    kept = {axis: value.get(f"kept_{axis}") for axis in KeptIndices.model_fields}
    dropped = value.get("dropped_layers", [])
    before = None
    if not any(indices for axis, indices in kept.items() if axis != "layers"):
        before = {**value["target"], "layers": len(value["kept_layers"]) + len(dropped)}
    return {
        "kind": "uniform",
        "before": before,
        "after": value["target"],
        "achieved": value["achieved"],
        "kept": kept,
        "dropped_layers": dropped,
        "removal_order": value.get("dropped_by_influence"),
    }


MaybePruned: TypeAlias = Annotated[Pruned | None, BeforeValidator(_of_any_form)]
"""A manifest's section: what was pruned, in today's form or an older one; None: nothing was."""
_SECTION: TypeAdapter[Masked | Uniform | Padded | Foreign | None] = TypeAdapter(MaybePruned)


def as_pruned(section: Any) -> Pruned | None:
    """A manifest's section `pruning`, read from its JSON.

    Raises:
        pydantic.ValidationError: it is of no form that is known.
    """
    return _SECTION.validate_python(section)


def _span(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"
