"""What the host knows of FLAP: a stage that measures, and one that prunes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from espalier.contract.parameters import Optional, Parameters
from espalier.contract.stage import Derived, Estimate, Stage, Unrolled
from espalier.errors import InputError
from espalier.models.shapes import Shapes
from espalier.pruning.estimate import Tokens, estimate_copying, estimate_forward
from espalier.pruning.parameters import SHORT_WINDOW, Reference, ShortWindowParameters
from espalier.pruning.structured.target import same_share
from methods.flap.counts import Costs, manual_by_layer, manual_of_all, same_widths

Metric = Literal["wifv", "ifv", "wifn"]
Structure = Literal["al-am", "ul-um", "ul-mm", "al-mm"]
Fluctuation = Literal["running", "exact"]
WITH_BIASES, BIASES = "llama", {"attention_bias": True, "mlp_bias": True}
"""The family whose config.json can add biases to o_proj and down_proj, and how it does."""


class FlapScoreParameters(ShortWindowParameters):
    """The tokens that fluctuations are measured on."""

    samples: Annotated[int, Field(ge=2, description="calibration sequences")] = 1024

    def label(self) -> str:
        """`1024`, `128x256`; the seed where it is not the first."""
        size = f"{self.samples}x{self.seqlen}" if self.seqlen else str(self.samples)
        return f"{size}-seed{self.seed}" if self.seed else size


class FlapParameters(Parameters):
    """By what units are scored, how they are compared, and how many go."""

    sparsity: Annotated[
        float, Field(gt=0, lt=1, description="fraction of the layers' weights removed")
    ] = 0.5
    metric: Annotated[
        Metric,
        Field(description="fluctuation times squared weights, alone, or Wanda's score"),
    ] = "wifv"
    structure: Annotated[
        Structure,
        Field(
            description="al: layers are compared, ul: each alike; am: heads with neurons, um: the "
            "same share of both, mm: heads by REMOVE_HEADS"
        ),
    ] = "al-am"
    remove_heads: Annotated[
        int | None,
        Optional,
        Field(description="key-value heads to remove in all layers together, for ul-mm and al-mm"),
    ] = None
    bias: Annotated[bool, Field(description="the mean of what is removed stays, as biases")] = True
    fluctuation: Annotated[
        Fluctuation, Field(description="the published recurrence, or the exact variance")
    ] = "running"
    reference: Reference = False

    def label(self) -> str:
        """`0.5`, `wifn-ul-mm-0.5-heads10-nobias`: what is not as by default."""
        parts = (
            "" if self.metric == "wifv" else self.metric,
            "" if self.structure == "al-am" else self.structure,
            f"{self.sparsity:g}",
            "" if self.remove_heads is None else f"heads{self.remove_heads}",
            "" if self.fluctuation == "running" else self.fluctuation,
            "" if self.bias else "nobias",
            "reference" if self.reference else "",
        )
        return "-".join(filter(None, parts))

    @model_validator(mode="after")
    def _heads_are_given_where_they_count(self) -> "FlapParameters":
        manual = self.structure.endswith("mm")
        if manual and self.remove_heads is None:
            raise InputError(
                f"STRUCTURE={self.structure} needs REMOVE_HEADS, the key-value heads that are to "
                "go in all layers together; give it, or STRUCTURE=al-am."
            )
        if manual and self.remove_heads is not None and self.remove_heads < -int(self.reference):
            raise InputError(
                f"REMOVE_HEADS={self.remove_heads} is no number of heads; give 0 or more."
            )
        if not manual and self.remove_heads is not None:
            raise InputError(
                f"STRUCTURE={self.structure} finds by itself how many heads go; leave out "
                f"REMOVE_HEADS={self.remove_heads}, or give STRUCTURE=al-mm or ul-mm."
            )
        return self


def check(parameters: FlapParameters, config: Mapping[str, Any]) -> None:
    """Refuse what cannot be done to a parent with this config.json.

    Raises:
        InputError: its family has no biases, or so much cannot be removed.
    """
    family = config.get("model_type")
    if parameters.bias and family != WITH_BIASES:
        raise InputError(
            f"stock {family} models have no bias at o_proj and down_proj, where BIAS=1 keeps the "
            "mean of what is removed; give BIAS=0."
        )
    shapes, sparsity = Shapes.of(config), parameters.sparsity
    costs = Costs.of(shapes, reference=parameters.reference)
    if parameters.structure == "ul-um":
        same_share(shapes.kv_heads, shapes.intermediate, sparsity)
    elif parameters.remove_heads is not None:
        by_layer = parameters.structure == "ul-mm"
        manual = manual_by_layer if by_layer else manual_of_all
        manual(same_widths(shapes), costs, sparsity, parameters.remove_heads)


def unroll(parameters: FlapParameters, config: Mapping[str, Any]) -> Unrolled:
    """The one pruning, checked before anything is measured; no layer is wider than its parent's.

    Raises:
        InputError: it cannot be done to a parent with this config.json.
    """
    if not config:
        return Unrolled((parameters,))
    check(parameters, config)
    left = {**config, **(BIASES if parameters.bias else {})}
    return Unrolled((parameters,), configs=(left,))


def estimate_scores(parameters: FlapScoreParameters, config: Mapping[str, Any]) -> Estimate:
    """One forward pass; six figures of every layer's features, twice when they are written."""
    shapes = Shapes.of(config)
    tokens = Tokens.of(
        parameters.samples, parameters.seqlen or SHORT_WINDOW, parameters.batch, shapes
    )
    forward = estimate_forward(config, tokens)
    features = shapes.heads * shapes.head_dim + shapes.intermediate
    figures = 6 * 4 * shapes.layers * features
    blocks = 8 * (1 << 22)
    return replace(forward, memory=forward.memory + 2 * figures + blocks,
                   disk=forward.disk + 2 * figures)  # fmt: skip


STAGES = (
    Stage(
        name="score-flap",
        verb="score",
        section="scores",
        image="minitron",
        parameters=FlapScoreParameters,
        entry="methods.flap.score_stage:run",
        summary="Measure how much each head and neuron fluctuates, in one pass.",
        inputs={"model": True, "calibration": True},
        estimate=estimate_scores,
    ),
    Stage(
        name="flap",
        verb="prune",
        section="checkpoints",
        image="minitron",
        parameters=FlapParameters,
        entry="methods.flap.stage:run",
        summary="Remove the heads and neurons that fluctuate least; their mean stays as a bias.",
        inputs={"model": True, "scores": True},
        estimate=estimate_copying,
        derived={"scores": Derived("score-flap")},
        unroll=unroll,
    ),
)
