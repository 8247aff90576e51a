"""Adopt: a Hugging Face directory of the user's becomes a model on the store."""

from espalier.parameters import Parameters
from espalier.stage import Stage

STAGE = Stage(
    name="adopt",
    verb="adopt",
    section="models",
    image="eval",
    parameters=Parameters,
    entry="training.adopt.stage:run",
    summary="Copy a Hugging Face directory into the store, through the gates.",
    inputs={"source": True},
)
