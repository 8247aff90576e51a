"""The stage `plan-gpu` and its parameters: those of the run that is planned, and the hardware."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator

from espalier.contract.stage import Estimate, Stage
from espalier.hardware.gpus import GPUS
from espalier.models.shapes import Shapes
from training.gpu_fsdp.spec import TrainingParameters
from training.protocol.parameters import Positive
from training.protocol.planned import Config, PlannedParameters


class PlanParameters(PlannedParameters, TrainingParameters):
    """A training run, where it is to run, and the shapes it has."""

    teacher_config: Annotated[Config | None, Field(description="the teacher's config.json")] = None
    gpus: Annotated[Positive, Field(description="GPUs a machine")] = 1
    nodes: Annotated[Positive, Field(description="machines")] = 1
    gpu: Annotated[str, Field(description="which GPU")] = "h100"

    @field_validator("gpu")
    @classmethod
    def _is_listed(cls, name: str) -> str:
        if name not in GPUS:
            raise ValueError(f"is not listed; there are {', '.join(GPUS)}")
        return name

    @property
    def world(self) -> int:
        """GPUs in all."""
        return self.gpus * self.nodes

    @property
    def hardware(self) -> str:
        """`8xh100`."""
        return f"{self.world}x{self.gpu}"


def _estimate(parameters: Any, config: Mapping[str, Any]) -> Estimate:
    layers = Shapes.of(parameters.config).layers
    return Estimate(memory=1 << 30, disk=1 << 20, seconds=15 + 1.2 * layers)


STAGE = Stage(
    name="plan-gpu",
    verb="plan",
    section="plans",
    image="fsdp",
    parameters=PlanParameters,
    entry="training.plan_gpu.stage:run",
    on_device=False,
    summary="estimate the memory and time of train-gpu, without a GPU",
    inputs={"data": False},
    renewed=True,
    estimate=_estimate,
    saved=None,
    report="training.plan_gpu.report:report",
)
