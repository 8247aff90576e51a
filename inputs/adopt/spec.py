"""Adopt: a Hugging Face directory or a GGUF file of the user's becomes a model on the store."""

from typing import Annotated

from pydantic import Field, field_validator

from espalier.contract.parameters import Optional, Parameters
from espalier.contract.pattern import Pattern
from espalier.contract.stage import Stage


class AdoptParameters(Parameters):
    """What the directory itself cannot say."""

    pattern: Annotated[
        str | None,
        Optional,
        Field(
            description="the model was pruned so: unstructured or N:M; checked and recorded, so "
            "that training keeps the zeros"
        ),
    ] = None

    @field_validator("pattern")
    @classmethod
    def _is_a_pattern(cls, text: str | None) -> str | None:
        return text and str(Pattern.parse(text))


STAGE = Stage(
    name="adopt",
    verb="adopt",
    section="models",
    image="eval",
    parameters=AdoptParameters,
    entry="inputs.adopt.stage:run",
    on_device=False,
    summary="Copy a Hugging Face directory, or convert a GGUF file, into the store.",
    inputs={"source": True},
)
