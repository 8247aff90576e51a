"""The stages that fetch: `fetch` a model, `fetch-data` a text data set."""

from typing import Annotated

from pydantic import Field

from espalier.parameters import Optional, Parameters
from espalier.stage import Stage

Revision = Annotated[
    str | None, Optional, Field(description="commit, tag or branch; default the listed one")
]


class FetchParameters(Parameters):
    """Which model."""

    model: Annotated[str, Field(min_length=1, description="an alias or a Hugging Face id")]
    revision: Revision = None


class FetchDataParameters(Parameters):
    """Which text."""

    data: Annotated[str, Field(description="c4, wikitext2, pg19 or bookcorpus")]
    revision: Revision = None


STAGES = (
    Stage(
        name="fetch",
        verb="fetch",
        section="models",
        image="eval",
        parameters=FetchParameters,
        entry="training.fetch.stage:run",
        summary="fetch a model's safetensors, configuration and tokenizer at a fixed commit",
        network=True,
    ),
    Stage(
        name="fetch-data",
        verb="fetch-data",
        section="data",
        image="eval",
        parameters=FetchDataParameters,
        entry="training.fetch.data_stage:run",
        summary="fetch a published text data set at a fixed commit",
        network=True,
    ),
)
