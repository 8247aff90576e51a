"""What the host knows of Minitron: two stages that score, three that prune."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from espalier.contract.parameters import Optional
from espalier.contract.stage import Derived, Estimate, Stage
from espalier.models.shapes import Shapes
from espalier.pruning.depth.cuts import cuts_of
from espalier.pruning.estimate import Tokens, estimate_copying, estimate_cuts, estimate_one_pass
from espalier.pruning.parameters import ScoreParameters, WindowParameters
from espalier.pruning.structured.parameters import (
    Axis,
    Ffn,
    Heads,
    Hidden,
    KvHeads,
    Layers,
    ShapeParameters,
)
from espalier.pruning.structured.target import check_layers
from espalier.pruning.structured.unroll import unroll

Aggregation = Literal["mean", "l2", "var"]
PERPLEXITY = "ppl"


class DepthScoreParameters(WindowParameters):
    """Which blocks are left out, and what is measured without them."""

    score: Annotated[str, Field(description="ppl, or a task of lm-eval 0.4.9: its accuracy")] = (
        PERPLEXITY
    )
    layers: Annotated[
        str, Field(description="layers left, such as 16 or 31,24,16; empty: one layer less")
    ] = ""
    samples: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Optional,
        Field(description="windows of the text (default 128), or rows of the task (default all)"),
    ] = None
    shots: Annotated[int, Field(ge=0, description="examples before each row of a task")] = 0

    @field_validator("layers")
    @classmethod
    def _counts(cls, value: str) -> str:
        if not all(part.strip().isdigit() for part in value.split(",") if value):
            raise ValueError("is not a number of layers, or several with commas between")
        return ",".join(str(int(part)) for part in value.split(",") if value)

    @property
    def windows(self) -> int:
        """How many windows of a text."""
        return self.samples or 128

    def blocks(self, layers: int) -> list[int]:
        """How many layers are left out at a time, of a model of `layers`; the fewest first.

        Raises:
            InputError: none would be left out, or all.
        """
        left = [int(part) for part in self.layers.split(",") if part] or [layers - 1]
        return sorted({layers - check_layers(count, layers) for count in left})

    def unused(self) -> frozenset[str]:
        """A text for perplexity, rows for a task."""
        return frozenset({"tasks" if self.score == PERPLEXITY else "calibration"})

    def label(self) -> str:
        """`ppl-16-128`, `winogrande-1less`."""
        size = f"{self.samples or ''}x{self.seqlen}" if self.seqlen else str(self.samples or "")
        shots = f"{self.shots}shot" if self.shots else ""
        left = self.layers.replace(",", "-") or "1less"
        return "-".join(filter(None, (self.score, shots, left, size)))


class WidthScoreParameters(ScoreParameters):
    """How activations become importance."""

    aggregate_batch: Annotated[Aggregation, Field(description="over the samples")] = "l2"
    aggregate_sequence: Annotated[Aggregation, Field(description="over a sample's tokens")] = "l2"

    def label(self) -> str:
        """`l2-l2-128`."""
        return f"{self.aggregate_batch}-{self.aggregate_sequence}-{super().label()}"


class DepthChoice(ShapeParameters):
    """How many layers are kept, and by which rule the others are chosen."""

    layers: Layers = None
    contiguous: Annotated[
        bool, Field(description="remove one block; 0: the layers that each cost least alone")
    ] = True
    choice: Annotated[
        Literal["closest", "best"],
        Field(description="the score closest to the unpruned one (the reference's), or the best"),
    ] = "closest"

    def label(self) -> str:
        """`16`, `16-best`, `16-single`."""
        rules = ("" if self.contiguous else "single", "" if self.choice == "closest" else "best")
        return "-".join(filter(None, (super().label(), *rules)))


class WidthSizes(ShapeParameters):
    """What is kept of each layer."""

    hidden: Hidden = None
    ffn: Ffn = None
    heads: Heads = None
    kv_heads: KvHeads = None

    @property
    def cuts_width(self) -> bool:
        """Whether any width is given."""
        return any(axis != "layers" for axis in self.sizes)


class DepthParameters(DepthChoice):
    """Minitron depth."""

    axes: ClassVar[tuple[Axis, ...]] = ("layers",)
    searched: ClassVar[tuple[Axis, ...]] = ("layers",)


class WidthParameters(WidthSizes):
    """Minitron width."""

    axes: ClassVar[tuple[Axis, ...]] = ("hidden", "ffn", "heads", "kv_heads")
    searched: ClassVar[tuple[Axis, ...]] = ("hidden", "ffn")


class MinitronParameters(DepthChoice, WidthSizes):
    """Depth and width in one."""

    axes: ClassVar[tuple[Axis, ...]] = ("layers", "hidden", "ffn", "heads", "kv_heads")
    searched: ClassVar[tuple[Axis, ...]] = ("layers", "hidden", "ffn")

    def unused(self) -> frozenset[str]:
        """Scores of an axis that is not cut."""
        depth, width = self.layers is not None, self.cuts_width
        return frozenset(
            role for role, cut in (("depth_scores", depth), ("width_scores", width)) if not cut
        )


def asked_of_depth(parameters: DepthChoice) -> dict[str, str]:
    """The block that is to go; single layers where it need not be one block."""
    return {"LAYERS": str(parameters.layers)} if parameters.contiguous else {}


def estimate_depth(parameters: DepthScoreParameters, config: Mapping[str, Any]) -> Estimate | None:
    """The walk for perplexity; a task's rows are not available."""
    if parameters.score != PERPLEXITY:
        return None
    shapes = Shapes.of(config)
    tokens = Tokens.of(parameters.windows, parameters.seqlen, parameters.batch, shapes)
    return estimate_cuts(config, tokens, cuts_of(shapes.layers, parameters.blocks(shapes.layers)))


DEPTH = Derived("score-minitron-depth", asked_of_depth)
WIDTH = Derived("score-minitron-width")

STAGES = (
    Stage(
        name="score-minitron-depth",
        verb="score",
        section="scores",
        image="minitron",
        parameters=DepthScoreParameters,
        entry="methods.minitron.depth_stage:run",
        summary="Measure perplexity, or a task's accuracy, without each block of layers.",
        inputs={"model": True, "calibration": False, "tasks": False},
        estimate=estimate_depth,
    ),
    Stage(
        name="score-minitron-width",
        verb="score",
        section="scores",
        image="minitron",
        parameters=WidthScoreParameters,
        entry="methods.minitron.width_stage:run",
        summary="Measure the importance of channels, neurons and heads, in one pass.",
        inputs={"model": True, "calibration": True},
        estimate=estimate_one_pass,
    ),
    Stage(
        name="minitron-depth",
        verb="prune",
        section="checkpoints",
        image="minitron",
        parameters=DepthParameters,
        entry="methods.minitron.stage:run",
        summary="Remove the block of layers whose absence changes the score least.",
        inputs={"model": True, "depth_scores": True},
        estimate=estimate_copying,
        derived={"depth_scores": DEPTH},
        unroll=unroll,
    ),
    Stage(
        name="minitron-width",
        verb="prune",
        section="checkpoints",
        image="minitron",
        parameters=WidthParameters,
        entry="methods.minitron.stage:run",
        summary="Keep the channels, neurons and heads of the largest activations.",
        inputs={"model": True, "width_scores": True},
        estimate=estimate_copying,
        derived={"width_scores": WIDTH},
        unroll=unroll,
    ),
    Stage(
        name="minitron",
        verb="prune",
        section="checkpoints",
        image="minitron",
        parameters=MinitronParameters,
        entry="methods.minitron.stage:run",
        summary="Depth and width in one, both scored on the parent.",
        inputs={"model": True, "depth_scores": False, "width_scores": False},
        estimate=estimate_copying,
        derived={"depth_scores": DEPTH, "width_scores": WIDTH},
        unroll=unroll,
    ),
)
