"""What the host knows of LLM-Pruner: a stage that scores, one that prunes."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from espalier.contract.parameters import Optional, Parameters, Seed, assigned_as
from espalier.contract.stage import Derived, Estimate, Stage
from espalier.errors import InputError
from espalier.models.shapes import Shapes
from espalier.pruning.estimate import Tokens, estimate_copying, estimate_forward
from espalier.pruning.parameters import Reference, WindowParameters
from espalier.pruning.structured.parameters import Layers
from methods.llm_pruner.left import unroll

FLOAT32_BYTES = 4
USELESS: dict[str, tuple[str, ...]] = {
    "block": ("layers",),
    "channel": ("layers", "first", "last", "global_"),
    "layer": ("sparsity", "importance", "taylor", "steps", "first", "last", "global_", "reference"),
}
"""Parameters that a mode has no use for."""
BACKWARD_FLOPS, BACKWARD_LAYERS = 4, 7
"""Of a forward pass: it, the same again and two products a matrix. Held of a layer: its weights,
their gradients, two sums, that of the first half, and what is computed of them at the end."""


class ScoreLlmPrunerParameters(WindowParameters):
    """What is measured, and on which tokens."""

    importance: Annotated[
        Literal["taylor", "magnitude"],
        Field(description="by the loss's gradients, in all of TAYLOR's forms, or by weights alone"),
    ] = "taylor"
    samples: Annotated[int, Field(ge=1, description="calibration sequences")] = 10
    seqlen: Annotated[int, Field(ge=2, description="tokens a sequence")] = 64
    seed: Seed = 42

    @model_validator(mode="after")
    def _magnitude_sees_no_tokens(self) -> "ScoreLlmPrunerParameters":
        if self.importance != "magnitude":
            return self
        if names := _others(self, ("samples", "seqlen", "batch")):
            raise InputError(f"magnitudes are measured without any tokens; leave out {names}.")
        return self

    def unused(self) -> frozenset[str]:
        """Magnitudes need no tokens."""
        return frozenset({"calibration"} if self.importance == "magnitude" else ())

    def label(self) -> str:
        """`10x64`, `10x64-seed1`, `magnitude`."""
        if self.importance == "magnitude":
            return "magnitude"
        return f"{self.samples}x{self.seqlen}" + (f"-seed{self.seed}" if self.seed != 42 else "")


class LlmPrunerParameters(Parameters):
    """What goes, how much, and by which importance.

    Attributes:
        whole_heads: key-value heads of the model before the first of several steps, of which all
            take their share; None: this is the first.
        whole_neurons: its neurons, likewise.
    """

    FILLED: ClassVar[frozenset[str]] = frozenset({"whole_heads", "whole_neurons"})

    mode: Annotated[
        Literal["block", "channel", "layer"],
        Field(
            description="block: heads and neurons of layers FIRST to LAST; channel: channels of "
            "the hidden state; layer: the last layers"
        ),
    ] = "block"
    importance: Annotated[
        Literal["taylor", "l1", "l2", "random"], Field(description="what is least goes")
    ] = "taylor"
    taylor: Annotated[
        Literal["param_first", "param_second", "param_mix", "vectorize"],
        Field(description="how IMPORTANCE=taylor estimates the change of the loss"),
    ] = "param_first"
    sparsity: Annotated[
        float,
        Field(gt=0, lt=1, description="fraction of heads and neurons, or of channels, removed"),
    ] = 0.25
    first: Annotated[
        Annotated[int, Field(ge=0)] | None,
        Optional,
        Field(description="the first layer pruned; default 4 of 32, in proportion"),
    ] = None
    last: Annotated[
        Annotated[int, Field(ge=0)] | None,
        Optional,
        Field(description="the first layer after those pruned; default 30 of 32, in proportion"),
    ] = None
    global_: Annotated[
        bool,
        Field(
            description="1: all layers' heads and neurons compete, by importance a parameter",
        ),
    ] = False
    steps: Annotated[
        int, Field(ge=1, le=100, description="prune in so many steps, scoring before each")
    ] = 1
    layers: Layers = None
    seed: Annotated[
        Annotated[int, Field(ge=0, le=2**32 - 1)] | None,
        Optional,
        Field(description="of IMPORTANCE=random, and of the calibration's draw (default 42)"),
    ] = None
    reference: Reference = False
    whole_heads: int | None = None
    whole_neurons: int | None = None

    @model_validator(mode="after")
    def _agree(self) -> "LlmPrunerParameters":
        if self.mode == "layer" and self.layers is None:
            raise InputError("MODE=layer keeps the first layers; say how many with LAYERS.")
        useless = [*USELESS[self.mode], *(("taylor",) if self.importance != "taylor" else ())]
        if names := _others(self, useless):
            mode = f"MODE={self.mode} IMPORTANCE={self.importance}"
            raise InputError(f"{names} has no use with {mode}; leave it out.")
        if self.first is not None and self.last is not None and self.first >= self.last:
            raise InputError(
                f"FIRST={self.first} is not before LAST={self.last}, the first layer that is left "
                "alone again; give FIRST below LAST."
            )
        if self.importance == "random" and self.seed is None:
            raise InputError("IMPORTANCE=random draws; give it a SEED, such as SEED=0.")
        if self.global_ and self.reference:
            raise InputError(
                "REFERENCE=1 has no GLOBAL=1: there heads and neurons are counted in different "
                "units, so that no share is reached; leave out one of them."
            )
        return self

    def unused(self) -> frozenset[str]:
        """No scores for what is drawn, or for the first layers."""
        drawn = self.mode == "layer" or self.importance == "random"
        return frozenset({"scores"} if drawn else ())

    def label(self) -> str:
        """`0.25`, `channel-l1-0.2`, `global-0.25-steps2`, `layer-12`."""
        if self.mode == "layer":
            return f"layer-{self.layers}"
        form = {"taylor": self.taylor}.get(self.importance, self.importance)
        parts = [
            "" if self.mode == "block" else self.mode,
            "" if form == "param_first" else form.replace("_", "-"),
            "global" if self.global_ else "",
            f"{self.sparsity:g}",
            "" if self.first is None and self.last is None else f"{self.first}to{self.last}",
            f"steps{self.steps}" if self.steps > 1 else "",
            "reference" if self.reference else "",
        ]
        return "-".join(filter(None, parts))


def _others(parameters: Parameters, names: Iterable[str]) -> str:
    """Of these parameters those that are not their defaults, as they are assigned."""
    fields = type(parameters).model_fields
    changed = {name for name in names if getattr(parameters, name) != fields[name].default}
    return ", ".join(sorted(assigned_as(name) for name in changed))


def asked(parameters: LlmPrunerParameters) -> dict[str, str]:
    """Which scores a pruning needs."""
    kind = "taylor" if parameters.importance == "taylor" else "magnitude"
    seeds = {} if parameters.seed is None else {"SEED": str(parameters.seed)}
    return {"IMPORTANCE": kind, **seeds}


def estimate_scores(parameters: ScoreLlmPrunerParameters, config: Mapping[str, Any]) -> Estimate:
    """A pass forwards, which keeps every layer's inputs on the disk, and one back."""
    shapes = replace(Shapes.of(config), item_bytes=FLOAT32_BYTES)
    if parameters.importance == "magnitude":
        return estimate_copying(parameters, config)
    given = (parameters.samples, parameters.seqlen, parameters.batch)
    tokens = Tokens.of(*given, shapes)
    passed = estimate_forward(config, tokens, passes=BACKWARD_FLOPS * shapes.layers, heads=3)
    held = tokens.count * shapes.hidden * FLOAT32_BYTES
    layer = shapes.layer_parameters * FLOAT32_BYTES
    return Estimate(
        memory=passed.memory + BACKWARD_LAYERS * layer + 4 * held,
        disk=(shapes.layers + 2) * held,
        seconds=passed.seconds + tokens.samples * shapes.layers * layer / 1e9,
        products=passed.products,
    )


STAGES = (
    Stage(
        name="score-llm-pruner",
        verb="score",
        section="scores",
        image="llm-pruner",
        parameters=ScoreLlmPrunerParameters,
        entry="methods.llm_pruner.score_stage:run",
        summary="Measure what heads, neurons and channels mean to the loss, by its gradients.",
        inputs={"model": True, "calibration": False},
        estimate=estimate_scores,
    ),
    Stage(
        name="llm-pruner",
        verb="prune",
        section="checkpoints",
        image="llm-pruner",
        parameters=LlmPrunerParameters,
        entry="methods.llm_pruner.stage:run",
        summary="Remove coupled heads and neurons, or channels, that the loss needs least.",
        inputs={"model": True, "scores": False},
        estimate=estimate_copying,
        derived={"scores": Derived("score-llm-pruner", asked)},
        unroll=unroll,
    ),
)
