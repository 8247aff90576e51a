"""The stage `plan-gpu` and its parameters: those of the run that is planned, and the hardware."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, field_validator

from espalier.architectures.shapes import Shapes
from espalier.stage import Estimate, Stage
from training.gpu_fsdp.spec import TrainingParameters
from training.plan_gpu.gpus import GPUS
from training.protocol.parameters import Positive


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


Config = Annotated[Mapping[str, Any], BeforeValidator(_parsed)]


class PlanParameters(TrainingParameters):
    """A training run, where it is to run, and the shapes it has: everything decides the plan."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset()

    config: Annotated[Config, Field(description="the model's config.json")]
    teacher_config: Annotated[Config | None, Field(description="the teacher's config.json")] = None
    masked: Annotated[bool, Field(description="the model was pruned by a pattern")] = False
    gpus: Annotated[Positive, Field(description="GPUs a machine")] = 1
    nodes: Annotated[Positive, Field(description="machines")] = 1
    gpu: Annotated[str, Field(description="which GPU")] = "h100"
    mfu: Annotated[
        float, Field(gt=0, le=1, description="share of the GPU's peak that the model's FLOPs take")
    ] = 0.4

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

    def label(self) -> str:
        """`8xh100-1f0c25d2`: a plan that differs in anything has a name of its own."""
        digest = hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()
        return f"{self.world}x{self.gpu}-{digest[:8]}"


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
    summary="estimate the memory and time of train-gpu, without a GPU",
    inputs={"data": False},
    estimate=_estimate,
    report="training.plan_gpu.report:report",
)
