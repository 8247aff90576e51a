"""The stages `to-maxtext`, `to-hf`, `hf2composer` and `composer2hf`, and their parameters."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from espalier.contract.parameters import Parameters
from espalier.contract.stage import Estimate, Stage
from espalier.models.shapes import Shapes

PROCESS_BYTES, BYTES_A_SECOND = 1500 << 20, 50 << 20


class ToMaxTextParameters(Parameters):
    """How MaxText's parameters are laid out."""

    scan: Annotated[
        bool, Field(description="layers stacked in one parameter, as MaxText trains them")
    ] = True

    def label(self) -> str:
        return "" if self.scan else "unscanned"


class ToHuggingFaceParameters(Parameters):
    """Nothing to choose: the shape and the layout are the checkpoint's."""


class ComposerParameters(Parameters):
    """Nothing to choose: names are the published code's."""


def _estimate(parameters: Any, config: Mapping[str, Any]) -> Estimate:
    shapes = Shapes.of(config)
    size = shapes.parameters * shapes.item_bytes
    # The weights, and once more what Orbax holds of them while it writes.
    return Estimate(
        memory=PROCESS_BYTES + 2 * size, disk=size, seconds=30 + 2 * size / BYTES_A_SECOND
    )


TO_MAXTEXT = Stage(
    name="to-maxtext",
    verb="convert",
    section="maxtext",
    image="maxtext",
    parameters=ToMaxTextParameters,
    entry="training.conversion.to_maxtext:run",
    on_device=False,
    checked_in="eval",
    summary="write a model as a MaxText checkpoint, whose logits are checked",
    inputs={"model": True},
    estimate=_estimate,
    saved=None,
)
TO_HF = Stage(
    name="to-hf",
    verb="convert",
    section="checkpoints",
    image="maxtext",
    parameters=ToHuggingFaceParameters,
    entry="training.conversion.to_hf:run",
    on_device=False,
    checked_in="eval",
    summary="write a MaxText checkpoint as a Hugging Face directory, whose logits are checked",
    inputs={"maxtext": True},
    saved=None,
)
TO_COMPOSER = Stage(
    name="hf2composer",
    verb="convert",
    section="composer",
    image="sheared-llama",
    parameters=ComposerParameters,
    entry="training.conversion.to_composer:run",
    on_device=False,
    summary="write a model as Sheared-LLaMA's Composer model, whose logits are checked",
    inputs={"model": True},
    estimate=_estimate,
    saved=None,
)
FROM_COMPOSER = Stage(
    name="composer2hf",
    verb="convert",
    section="checkpoints",
    image="sheared-llama",
    parameters=ComposerParameters,
    entry="training.conversion.from_composer:run",
    on_device=False,
    summary="write Sheared-LLaMA's Composer model as a Hugging Face directory, as strictly",
    inputs={"composer": True, "config": True},
    saved=None,
)
STAGES = (TO_MAXTEXT, TO_HF, TO_COMPOSER, FROM_COMPOSER)
