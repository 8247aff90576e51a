"""What the host knows of Wanda-sp."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from espalier.contract.stage import Estimate, Stage, Unrolled
from espalier.models.shapes import Shapes
from espalier.pruning.estimate import Tokens, estimate_streamed
from espalier.pruning.parameters import SHORT_WINDOW, Reference, ShortWindowParameters
from espalier.pruning.structured.target import same_share


class WandaSpParameters(ShortWindowParameters):
    """How much goes, and the tokens by which it is chosen."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset({"batch", "reference"})
    """None of the reference's quirks changes what is kept."""

    sparsity: Annotated[
        float, Field(gt=0, lt=1, description="fraction of each layer's heads and of its neurons")
    ] = 0.5
    reference: Reference = False

    def label(self) -> str:
        """`0.5`."""
        return f"{self.sparsity:g}"


def unroll(parameters: WandaSpParameters, config: Mapping[str, Any]) -> Unrolled:
    """The one pruning, checked before anything is computed.

    Raises:
        InputError: it would remove nothing of a parent with this config.json.
    """
    if not config:
        return Unrolled((parameters,))
    shapes = Shapes.of(config)
    same_share(shapes.kv_heads, shapes.intermediate, parameters.sparsity)
    return Unrolled((parameters,), configs=(config,))


def estimate(parameters: WandaSpParameters, config: Mapping[str, Any]) -> Estimate:
    """Two passes of the tokens through every layer, and a copy of what is kept."""
    shapes = Shapes.of(config)
    given = (parameters.samples, parameters.seqlen or SHORT_WINDOW, parameters.batch)
    largest = max(rows * columns for rows, columns in shapes.matrices.values())
    scores = 8 * min(largest, 1 << 22)
    return estimate_streamed(config, Tokens.of(*given, shapes), working_bytes=scores)


STAGE = Stage(
    name="wanda-sp",
    verb="prune",
    section="checkpoints",
    image="minitron",
    parameters=WandaSpParameters,
    entry="methods.wanda_sp.stage:run",
    summary="Remove the heads and neurons of least |weight| x input norm in each layer.",
    inputs={"model": True, "calibration": True},
    estimate=estimate,
    unroll=unroll,
)
