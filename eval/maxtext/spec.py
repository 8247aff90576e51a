"""The stage `eval-jax` and its parameters."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from espalier.contract.stage import Estimate, Stage
from espalier.errors import InputError
from espalier.models.shapes import Shapes
from eval.spec import SuiteName, TaskParameters, estimate
from eval.suites.suite import SUITES

COMPILE_SECONDS = 40
"""JAX and MaxText, and a program for each of a few row lengths."""


class JaxEvalParameters(TaskParameters):
    """What is measured by JAX: tasks that ask for log-likelihoods."""

    seqlen: ClassVar[None] = None
    """No text is cut into windows."""

    suite: Annotated[
        SuiteName, Field(description="of tasks (make help-eval); tasks: those of TASKS alone")
    ] = "tasks"
    backend: Annotated[Literal["jax"], Field(description="what this stage is")] = "jax"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field(description="auto: the checkpoint's own; of float16: float32"),
    ] = "auto"

    @field_validator("suite")
    @classmethod
    def _is_of_tasks(cls, suite: SuiteName) -> SuiteName:
        if SUITES[suite].perplexity:
            raise InputError(
                f"BACKEND=jax measures tasks alone, and SUITE={suite} a text; give a suite of "
                "tasks, or another BACKEND."
            )
        return suite


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
    tpu=True,
    summary="measure lm-eval 0.4.13 tasks by JAX, what questions have in common once",
    inputs={"model": True, "tasks": True},
    estimate=_estimate,
    report="eval.report:report",
)
