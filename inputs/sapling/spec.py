"""The stages that make sapling: its text, then the model."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from espalier.contract.parameters import Parameters, Seed
from espalier.contract.stage import Estimate, Stage


class CorpusParameters(Parameters):
    """Which text is made; there is one so far."""

    text: Annotated[Literal["pydoc"], Field(description="pydoc: CPython's own documentation")] = (
        "pydoc"
    )


class GrowParameters(Parameters):
    """The shape of the model is fixed; how long it grows is not."""

    steps: Annotated[int, Field(ge=1, description="optimizer steps of 1024 tokens")] = 260
    seed: Seed = 0


def _corpus_estimate(parameters: Any, config: Mapping[str, Any]) -> Estimate:
    return Estimate(memory=200 << 20, disk=2 << 20, seconds=2)


def _grow_estimate(parameters: Any, config: Mapping[str, Any]) -> Estimate:
    steps = getattr(parameters, "steps", 260)
    return Estimate(memory=1 << 30, disk=40 << 20, seconds=10 + 0.4 * steps)


STAGES = (
    Stage(
        name="corpus",
        verb="corpus",
        section="data",
        image="eval",
        parameters=CorpusParameters,
        entry="inputs.sapling.corpus:run",
        on_device=False,
        summary="write CPython's documentation text, split into train, validation and test",
        estimate=_corpus_estimate,
        saved=None,
    ),
    Stage(
        name="grow",
        verb="grow",
        section="models",
        image="eval",
        parameters=GrowParameters,
        entry="inputs.sapling.stage:run",
        on_device=False,
        summary="grow sapling, a Llama of 1.05 M parameters, and its tokenizer from a text",
        inputs={"data": True},
        estimate=_grow_estimate,
        saved="inputs.sapling.saved:grown",
    ),
)
