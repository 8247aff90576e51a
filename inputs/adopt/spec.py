"""Adopt: a Hugging Face directory of the user's becomes a model on the store."""

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
    summary="Copy a Hugging Face directory into the store, through the gates.",
    inputs={"source": True},
)
