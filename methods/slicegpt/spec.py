"""What the host knows of SliceGPT."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from espalier.contract.parameters import Optional
from espalier.contract.stage import Estimate, Stage
from espalier.errors import InputError
from espalier.models.shapes import Shapes
from espalier.pruning.estimate import PRODUCT_FLOPS, Tokens, estimate_forward
from espalier.pruning.parameters import CalibrationParameters, Reference

WIDE_FLOPS = PRODUCT_FLOPS / 2
"""Products in float64."""
EIGEN_FLOPS = 25
"""Of an eigendecomposition, times the cube of its width."""


class SliceGPTParameters(CalibrationParameters):
    """How many channels go, in which basis, and what is calibrated on."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset({"batch"})

    sparsity: Annotated[
        float, Field(gt=0, lt=1, description="fraction of the residual stream's channels removed")
    ] = 0.25
    round: Annotated[
        int, Field(ge=1, description="channels left are a multiple of it, rounded down")
    ] = 8
    orientation: Annotated[
        Literal["pca", "random"],
        Field(
            description="of the directions that are left: the principal ones, or turned at random "
            "by SEED; the function is the same"
        ),
    ] = "pca"
    shared: Annotated[
        bool,
        Field(description="one basis for all blocks: a smaller stock model that everything loads"),
    ] = False
    reference: Reference = False
    batch: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Optional,
        Field(description="samples a pass; default 2048 tokens' worth; speed and rounding"),
    ] = None

    @model_validator(mode="after")
    def _has_a_reference(self) -> "SliceGPTParameters":
        if self.shared and self.reference:
            raise InputError(
                "the reference implementation has no shared basis; leave out SHARED=1 or "
                "REFERENCE=1."
            )
        return self

    def label(self) -> str:
        """`0.25`, `shared-0.25`, `reference-random-0.25`."""
        said = {
            "reference": self.reference,
            "shared": self.shared,
            "random": self.orientation == "random",
        }
        return "-".join([*(word for word, is_so in said.items() if is_so), f"{self.sparsity:g}"])


def estimate(parameters: SliceGPTParameters, config: Mapping[str, Any]) -> Estimate:
    """One pass, second moments at two places of each layer, and products in float64."""
    shapes = Shapes.of(config)
    tokens = Tokens.of(parameters.samples, parameters.seqlen, parameters.batch, shapes)
    passed, width = estimate_forward(config, tokens), shapes.hidden
    square = 8 * width**2
    sites = 2 * shapes.layers + 1
    decompositions = 1 if parameters.shared else sites
    flops = sites * 1.1 * tokens.count * width**2 + decompositions * EIGEN_FLOPS * width**3
    flops += 2 * (1 - parameters.sparsity) * width * shapes.parameters
    written = shapes.parameters * shapes.item_bytes
    layer = shapes.layer_parameters * shapes.item_bytes
    return Estimate(
        # A layer once more as it is written; the moment, its eigenvectors and what finds them.
        memory=math.ceil(passed.memory + layer + 6 * square + 8 * tokens.batch * width),
        disk=passed.disk + written + 2 * square,
        seconds=passed.seconds + flops / WIDE_FLOPS,
        products=passed.products + flops / WIDE_FLOPS,
    )


STAGE = Stage(
    name="slicegpt",
    verb="prune",
    section="checkpoints",
    image="minitron",
    parameters=SliceGPTParameters,
    entry="methods.slicegpt.stage:run",
    summary="Rotate the residual stream to its principal components and cut off the least.",
    inputs={"model": True, "calibration": True},
    estimate=estimate,
)
