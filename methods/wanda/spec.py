"""What the host knows of Wanda."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from espalier.contract.stage import Estimate, Stage
from espalier.errors import InputError
from espalier.models.shapes import Shapes
from espalier.pruning.estimate import Tokens, estimate_streamed
from espalier.pruning.parameters import CalibratedPruning


class WandaParameters(CalibratedPruning):
    """Wanda's parameters."""

    variant: Annotated[
        bool, Field(description="rows give up an equal share of their score; unstructured only")
    ] = False

    def label(self) -> str:
        """`variant-0.5` for the variant, so that it has a name of its own."""
        return f"variant-{super().label()}" if self.variant else super().label()

    @model_validator(mode="after")
    def _variant_is_unstructured(self) -> "WandaParameters":
        if self.variant and self.mask_pattern.structured:
            raise InputError(
                f"VARIANT=1 is unstructured; leave out PATTERN={self.pattern} or VARIANT."
            )
        return self


def estimate(parameters: WandaParameters, config: Mapping[str, Any]) -> Estimate:
    """Memory, disk and time for a parent with this config.json."""
    shapes = Shapes.of(config)
    widest = max(rows * columns for rows, columns in shapes.matrices.values())
    # The variant sorts a whole matrix of float32 scores and sums it up.
    selection = 5 * 4 * widest if parameters.variant else 0
    given = (parameters.samples, parameters.seqlen, parameters.batch)
    tokens = Tokens.of(*given, shapes)
    return estimate_streamed(config, tokens, working_bytes=selection)


STAGE = Stage(
    name="wanda",
    verb="prune",
    section="checkpoints",
    image="wanda",
    parameters=WandaParameters,
    entry="methods.wanda.stage:run",
    summary="Zero the weights of least |weight| x input norm in each row.",
    inputs={"model": True, "calibration": True},
    estimate=estimate,
)
