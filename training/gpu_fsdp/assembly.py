"""A run's model, teacher, masks and optimizers, each sharded over all ranks."""

from dataclasses import dataclass
from pathlib import Path

from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer

from espalier.models.shapes import read_config
from training.gpu_fsdp.job import Job
from training.gpu_fsdp.model import (
    LanguageModel,
    Teacher,
    allocate,
    empty_model,
    fresh_weights,
    kept_entries,
    load_weights,
)
from training.gpu_fsdp.optimizers import optimizers
from training.gpu_fsdp.sharding import Layout, device_mesh, shard
from training.gpu_fsdp.sparsity import Masks
from training.protocol.sparsity import is_masked


@dataclass(frozen=True)
class Assembled:
    """What a trainer steps."""

    model: LanguageModel
    teacher: Teacher | None
    masks: Masks
    optimizers: list[Optimizer]


def assemble(job: Job, device: str, world: int) -> Assembled:
    """Build, shard and fill everything."""
    parameters = job.parameters
    mesh = device_mesh(device, world, parameters.replicas)
    layout = Layout(parameters.replicas, parameters.recompute, parameters.compile)
    model = empty_model(job.config)
    shard(model, model.layers, mesh, layout, job.precision)
    allocate(model, device)
    if parameters.init == "random" or job.checkpoint is None:
        fresh_weights(model, parameters.seed)
    else:
        load_weights(model, job.checkpoint)
    weights = model.named_weights()
    masks = Masks({})
    if job.masked and job.checkpoint is not None:
        names = [name for name, weight in weights.items() if is_masked(name, weight.shape)]
        masks = Masks(kept_entries(model, job.checkpoint, names))
        masks.apply(weights)
    teacher = None if job.teacher is None else _teacher(job.teacher, mesh, job.precision, device)
    return Assembled(model, teacher, masks, optimizers(weights, parameters))


def _teacher(directory: Path, mesh: DeviceMesh, precision: str, device: str) -> Teacher:
    model = empty_model(read_config(directory))
    teacher = Teacher(model)
    shard(teacher, model.layers, mesh, Layout(), precision)
    allocate(model, device)
    load_weights(model, directory)
    return teacher
