"""What the host knows of SparseGPT."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from espalier.contract.stage import Estimate, Stage
from espalier.models.shapes import INPUT_GROUPS, Shapes
from espalier.pruning.estimate import Tokens, estimate_streamed
from espalier.pruning.parameters import CalibratedPruning


class SparseGPTParameters(CalibratedPruning):
    """SparseGPT's parameters."""

    damping: Annotated[
        float, Field(gt=0, le=1, description="added to the Hessian's diagonal, times its mean")
    ] = 0.01
    block_size: Annotated[
        int, Field(ge=1, description="columns pruned before the rest is updated")
    ] = 128


def estimate(parameters: SparseGPTParameters, config: Mapping[str, Any]) -> Estimate:
    """Memory, disk and time for a parent with this config.json."""
    shapes = Shapes.of(config)
    given = (parameters.samples, parameters.seqlen, parameters.batch)
    tokens = Tokens.of(*given, shapes)
    widths = [shapes.matrices[group[0]][1] for group in INPUT_GROUPS]
    hessians = sum(4 * width**2 for width in widths)
    # While the widest is factorised: a quarter of it again, and the matrix in float32.
    working = max(widths) ** 2 + 2 * 4 * max(widths) * shapes.hidden
    products = sum(1.1 * tokens.count * width**2 for width in widths)
    factors = sum(1.5 * width**3 for width in widths)
    updates = sum(1.5 * rows * columns**2 for rows, columns in shapes.matrices.values())
    # Inputs are widened and scaled before they enter a Hessian.
    hessians += 2 * 4 * tokens.batch * max(widths)
    return estimate_streamed(config, tokens, hessians, working, products + factors + updates)


STAGE = Stage(
    name="sparsegpt",
    verb="prune",
    section="checkpoints",
    image="wanda",
    parameters=SparseGPTParameters,
    entry="methods.sparsegpt.stage:run",
    summary="Prune by second-order reconstruction; the kept weights make up for the rest.",
    inputs={"model": True, "calibration": True},
    estimate=estimate,
)
