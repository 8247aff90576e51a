"""The stage `plan-tpu` and its parameters: those of the run that is planned, and the TPU."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator

from espalier.contract.stage import Estimate, Stage
from espalier.hardware.tpus import Tpu, tpu_named
from training.protocol.planned import PlannedParameters
from training.tpu_maxtext.spec import TpuTrainingParameters


class PlanTpuParameters(PlannedParameters, TpuTrainingParameters):
    """A training run, where it is to run, and the shape that it has."""

    tpu: Annotated[str, Field(description="accelerator type, such as v5litepod-16")]

    @field_validator("tpu")
    @classmethod
    def _is_listed(cls, name: str) -> str:
        tpu_named(name)
        return name

    @property
    def slice(self) -> Tpu:
        return tpu_named(self.tpu)

    @property
    def hardware(self) -> str:
        """`v5litepod-16`."""
        return self.tpu


def _estimate(parameters: Any, config: Mapping[str, Any]) -> Estimate:
    return Estimate(memory=3 << 30, disk=1 << 20, seconds=500)


STAGE = Stage(
    name="plan-tpu",
    verb="plan",
    section="plans",
    image="maxtext",
    packages="tpu",
    parameters=PlanTpuParameters,
    entry="training.plan_tpu.stage:run",
    on_device=False,
    summary="compile the step of train-tpu for a TPU, without one, and tell memory, time and price",
    inputs={"data": False},
    renewed=True,
    estimate=_estimate,
    saved=None,
    report="training.plan_tpu.report:report",
)
