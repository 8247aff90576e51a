"""The stages `compact` and `pad`, and their parameters."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from espalier.contract.parameters import Parameters
from espalier.contract.stage import Estimate, Stage
from espalier.models.narrow import COMPACT, Form
from espalier.models.shapes import Shapes

PROCESS_BYTES, BYTES_A_SECOND = 1500 << 20, 100 << 20
FLOAT32_BYTES = 4


class CompactParameters(Parameters):
    """Which form, and what its speed is measured on."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset({"seqlen"})

    form: Annotated[
        Form,
        Field(
            description="layers: every layer's own widths, read by image eval; block-configs: "
            "what vLLM, SGLang, TensorRT-LLM and llama.cpp read for Nemotron-NAS"
        ),
    ] = "layers"
    seqlen: Annotated[
        int, Field(ge=1, description="tokens of the forward pass that is compared and timed")
    ] = 128

    def label(self) -> str:
        return "compact" if self.form == "layers" else "blocks"


class PadParameters(Parameters):
    """Nothing to choose: the manifest has the padded model's widths."""


def _estimate(parameters: Any, config: Mapping[str, Any]) -> Estimate:
    """Both models are held at once, in float32, to compare them."""
    shapes = Shapes.of(config)
    return Estimate(
        memory=PROCESS_BYTES + 2 * FLOAT32_BYTES * shapes.parameters,
        disk=shapes.parameters * shapes.item_bytes,
        seconds=20 + 3 * shapes.parameters * shapes.item_bytes / BYTES_A_SECOND,
    )


COMPACT_STAGE = Stage(
    name="compact",
    verb="convert",
    section="checkpoints",
    image="eval",
    parameters=CompactParameters,
    entry="training.compaction.compact:run",
    summary="write a padded model in its layers' true widths, whose logits are checked",
    inputs={"model": True},
    estimate=_estimate,
)
PAD = Stage(
    name="pad",
    verb="convert",
    section="checkpoints",
    image="eval",
    parameters=PadParameters,
    entry="training.compaction.pad:run",
    on_device=False,
    summary="write a compact model in the padded form that stock loaders read, bit for bit",
    inputs={"compact": True},
    forms=frozenset({COMPACT}),
)
STAGES = (COMPACT_STAGE, PAD)
