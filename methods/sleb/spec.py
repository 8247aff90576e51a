"""What the host knows of SLEB."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from espalier.contract.stage import Derived, Estimate, Stage
from espalier.errors import InputError
from espalier.models.shapes import Shapes
from espalier.pruning.depth.cuts import KEPT_BYTES, Cut, chunk_tokens, walk_runs
from espalier.pruning.estimate import Tokens, estimate_copying, estimate_forward
from espalier.pruning.parameters import Reference, ScoreParameters
from espalier.pruning.structured.parameters import Layers, LayersLeft
from espalier.pruning.structured.target import check_layers
from espalier.pruning.structured.unroll import unroll

Barrier = Annotated[int, Field(ge=0)]


class SlebScoreParameters(ScoreParameters):
    """How far the search goes, and which layers it never tries."""

    layers: Annotated[
        Layers, Field(description="layers left where the search ends; default half of them")
    ] = None
    early_barrier: Annotated[Barrier, Field(description="first layers that stay")] = 1
    latter_barrier: Annotated[Barrier, Field(description="last layers that stay")] = 1
    samples: Annotated[int, Field(ge=1, description="windows of the text, at most")] = 16
    reference: Reference = False

    def candidates(self, layers: int) -> range:
        """Layers that may go, of a model of `layers`."""
        return range(self.early_barrier, layers - self.latter_barrier)

    def removals(self, layers: int) -> int:
        """How many layers of `layers` go.

        Raises:
            InputError: none are left, none go, or the barriers leave too few that may.
        """
        may, barriers = len(self.candidates(layers)), self._barriers
        if not may:
            raise InputError(
                f"{barriers} leave none of {layers} layers that may be removed; give lower ones."
            )
        left = self.layers or max(layers - layers // 2, layers - may)
        count = layers - check_layers(left, layers)
        if count > may and not self.reference:
            raise InputError(
                f"LAYERS={layers - count} needs {count} of {layers} layers removed and {barriers} "
                f"leave {may} that may be; give LAYERS={layers - may} or more, or lower barriers."
            )
        return count

    @property
    def _barriers(self) -> str:
        return f"EARLY_BARRIER={self.early_barrier} and LATTER_BARRIER={self.latter_barrier}"

    def label(self) -> str:
        """`23-16`, `23-barriers0-2-16x512`."""
        barriers = (self.early_barrier, self.latter_barrier)
        shown = "" if barriers == (1, 1) else f"barriers{barriers[0]}-{barriers[1]}"
        left = str(self.layers or "half")
        quirks = "reference" if self.reference else ""
        return "-".join(filter(None, (left, shown, super().label(), quirks)))


def asked_of_search(parameters: LayersLeft) -> dict[str, str]:
    """It ends where enough layers are gone."""
    return {"LAYERS": str(parameters.layers)}


def estimate_search(parameters: SlebScoreParameters, config: Mapping[str, Any]) -> Estimate:
    """The rounds, as if the last layers went: all that a round shares, and little between them."""
    shapes = Shapes.of(config)
    tokens = Tokens.of(parameters.samples, parameters.seqlen, parameters.batch, shapes)
    candidates = parameters.candidates(shapes.layers)
    rounds = min(parameters.removals(shapes.layers), len(candidates))
    passes = heads = 0
    for gone in range(rounds):
        left = candidates[: len(candidates) - gone]
        passes += walk_runs(range(shapes.layers - gone), [None, *(Cut(n, 1) for n in left)])
        heads += 1 + len(left)
    estimate = estimate_forward(config, tokens, 0, passes, heads)
    width = shapes.hidden * shapes.item_bytes
    walked = min(tokens.count, max(tokens.length, chunk_tokens(len(candidates), width)))
    every_front = len(candidates) * (len(candidates) + 1) // 2 * tokens.count * width
    held = (len(candidates) + 2) * walked * width + min(KEPT_BYTES, every_front)
    return replace(estimate, memory=estimate.memory + held)


STAGES = (
    Stage(
        name="score-sleb",
        verb="score",
        section="scores",
        image="minitron",
        parameters=SlebScoreParameters,
        entry="methods.sleb.score_stage:run",
        summary="Search the order in which layers are missed least, one by one.",
        inputs={"model": True, "calibration": True},
        estimate=estimate_search,
    ),
    Stage(
        name="sleb",
        verb="prune",
        section="checkpoints",
        image="minitron",
        parameters=LayersLeft,
        entry="methods.sleb.stage:run",
        summary="Remove layers one by one, each time the one that is missed least.",
        inputs={"model": True, "scores": True},
        estimate=estimate_copying,
        derived={"scores": Derived("score-sleb", asked_of_search)},
        unroll=unroll,
    ),
)
