"""The stage `eval-jax` and its parameters."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from espalier.contract.stage import Estimate, Stage
from espalier.models.shapes import Shapes
from eval.spec import EvalParameters, estimate

COMPILE_SECONDS = 40
"""JAX and MaxText, and a program for each of a few row lengths."""


class JaxEvalParameters(EvalParameters):
    """What is measured by JAX."""

    backend: Annotated[Literal["jax"], Field(description="what this stage is")] = "jax"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field(description="auto: the checkpoint's own; of float16: float32"),
    ] = "auto"


def _estimate(parameters: Any, config: Mapping[str, Any]) -> Estimate:
    """As of the other backends, and compiling."""
    Shapes.of(config)
    found = estimate(parameters, config)
    return replace(found, seconds=found.seconds + COMPILE_SECONDS)


STAGE = Stage(
    name="eval-jax",
    verb="eval",
    section="evals",
    image="maxtext",
    parameters=JaxEvalParameters,
    entry="eval.maxtext.stage:run",
    join="eval.maxtext.stage:join",
    tpu=True,
    summary="measure perplexity and lm-eval 0.4.13 tasks by JAX, what questions share once",
    inputs={"model": True, "data": False, "tasks": False},
    estimate=_estimate,
    report="eval.report:report",
)
