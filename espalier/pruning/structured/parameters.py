"""What is left of a model, as parameters. Needs no torch."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from espalier.contract.parameters import Count, Optional, Parameters
from espalier.errors import InputError
from espalier.models.shapes import Shapes
from espalier.pruning.structured.target import target_shapes

Size = Annotated[Annotated[int, Field(ge=1)] | None, Optional]
Layers = Annotated[Size, Field(description="layers left; default all")]
Hidden = Annotated[Size, Field(description="channels of the hidden state left; default all")]
Ffn = Annotated[Size, Field(description="neurons of each layer's MLP left; default all")]
Heads = Annotated[Size, Field(description="attention heads left; default all")]
KvHeads = Annotated[Size, Field(description="heads of keys and values left; default all")]
Axis = Literal["layers", "hidden", "ffn", "heads", "kv_heads"]
FIELDS: dict[Axis, str] = {
    "layers": "layers", "hidden": "hidden", "ffn": "intermediate",
    "heads": "heads", "kv_heads": "kv_heads",
}  # fmt: skip
"""What Shapes calls each."""
LABELS: dict[Axis, str] = {
    "layers": "", "hidden": "h", "ffn": "f", "heads": "a", "kv_heads": "kv",
}  # fmt: skip


class ShapeParameters(Parameters):
    """A shape, or a number of parameters from which one is chosen.

    Attributes:
        axes: the sizes that a subclass lets the user give.
        searched: those among them that PARAMS chooses.
    """

    axes: ClassVar[tuple[Axis, ...]] = ()
    searched: ClassVar[tuple[Axis, ...]] = ()

    params: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Count,
        Field(description="parameters to be left, such as 4B: the shape is chosen"),
    ] = None
    steps: Annotated[
        int, Field(ge=1, le=100, description="prune in so many steps, scoring before each")
    ] = 1

    @property
    def sizes(self) -> dict[Axis, int]:
        """The sizes given, by axis."""
        given: dict[Axis, int | None] = {axis: getattr(self, axis) for axis in self.axes}
        return {axis: size for axis, size in given.items() if size is not None}

    def label(self) -> str:
        """`16`, `h3072-f9216`, or the number of parameters asked for."""
        parts = [f"{LABELS[axis]}{size}" for axis, size in self.sizes.items()]
        if self.params:
            parts.append(f"{short_count(self.params)}")
        if self.steps > 1:
            parts.append(f"steps{self.steps}")
        return "-".join(parts)

    def target(self, parent: Shapes) -> Shapes:
        """The shapes that are left of `parent`.

        Raises:
            InputError: they cannot be reached.
        """
        return target_shapes(parent, **self.sizes)

    def with_sizes(self, sizes: dict[Axis, int]) -> Any:
        """The same parameters for one pruning to given sizes."""
        values: dict[str, Any] = {axis: sizes.get(axis) for axis in self.axes}
        return self.model_copy(update={**values, "params": None, "steps": 1})

    @model_validator(mode="after")
    def _sized(self) -> Self:
        """Either sizes or PARAMS.

        Raises:
            InputError: neither is given, or both.
        """
        names = ", ".join(axis.upper() for axis in self.axes)
        if not self.sizes and not self.params:
            raise InputError(f"say what is to be left: give {names} or PARAMS.")
        if self.params and (given := [axis for axis in self.sizes if axis in self.searched]):
            raise InputError(
                f"PARAMS={self.params} chooses {' and '.join(a.upper() for a in self.searched)}; "
                f"leave out {', '.join(a.upper() for a in given)} or PARAMS."
            )
        return self


class LayersLeft(ShapeParameters):
    """How many layers are kept."""

    axes: ClassVar[tuple[Axis, ...]] = ("layers",)
    searched: ClassVar[tuple[Axis, ...]] = ("layers",)

    layers: Layers = None


def short_count(count: int) -> str:
    """`4B`, `1.05M`, `700K`: what `parse_count` reads."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
