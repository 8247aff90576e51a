"""Adopt: a Hugging Face directory or a GGUF file of the user's becomes a model on the store."""

from espalier.contract.parameters import Parameters
from espalier.contract.stage import Stage

STAGE = Stage(
    name="adopt",
    verb="adopt",
    section="models",
    image="eval",
    parameters=Parameters,
    entry="inputs.adopt.stage:run",
    on_device=False,
    summary="Copy a Hugging Face directory, or convert a GGUF file, into the store.",
    inputs={"source": True},
)
