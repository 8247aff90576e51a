"""What the host knows of magnitude pruning."""

from collections.abc import Mapping
from typing import Any

from espalier.contract.stage import Estimate, Stage
from espalier.pruning.estimate import estimate_weights_only
from espalier.pruning.parameters import SparsityParameters


def estimate(parameters: SparsityParameters, config: Mapping[str, Any]) -> Estimate:
    """Memory, disk and time for a parent with this config.json."""
    return estimate_weights_only(config)


STAGE = Stage(
    name="magnitude",
    verb="prune",
    section="checkpoints",
    image="wanda",
    parameters=SparsityParameters,
    entry="methods.magnitude.stage:run",
    summary="Zero the smallest weights of each matrix; needs no calibration.",
    inputs={"model": True},
    estimate=estimate,
)
