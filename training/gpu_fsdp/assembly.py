"""A run's model, teacher, masks and optimizers, each sharded over all ranks."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer

from espalier.models.found_zeros import is_masked
from espalier.models.shapes import read_config
from training.gpu_fsdp.job import FsdpRun
from training.gpu_fsdp.model import (
    LanguageModel,
    Teacher,
    allocate,
    empty_model,
    entries_beside,
    fresh_weights,
    kept_entries,
    load_weights,
)
from training.gpu_fsdp.optimizers import optimizers
from training.gpu_fsdp.sharding import Layout, device_mesh, shard
from training.gpu_fsdp.sparsity import Masks
from training.protocol.sparsity import Zeros


@dataclass(frozen=True)
class Assembled:
    """What a trainer steps."""

    model: LanguageModel
    teacher: Teacher | None
    masks: Masks
    optimizers: list[Optimizer]


def assemble(job: FsdpRun, device: str, world: int) -> Assembled:
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
        load_weights(model.named_weights(), job.checkpoint)
    weights = model.named_weights()
    masks = Masks({})
    if job.zeros and job.checkpoint is not None:
        masks = Masks(_kept(model, job.zeros, job.checkpoint, job.shapes.head_dim))
        masks.apply(weights)
    teacher = None if job.teacher is None else _teacher(job.teacher, mesh, job.precision, device)
    return Assembled(model, teacher, masks, optimizers(weights, parameters))


def _kept(model: LanguageModel, zeros: Zeros, checkpoint: Path, head_dim: int) -> dict[str, Tensor]:
    """Where this rank's rows may differ from zero, by the names of tensors that have zeros."""
    shapes = {name: tuple(weight.shape) for name, weight in model.named_weights().items()}
    if zeros.padded is not None:
        return entries_beside(model, zeros.padding(shapes, head_dim).values())
    names = [name for name, shape in shapes.items() if is_masked(name, shape)]
    return kept_entries(model, checkpoint, names)


def _teacher(directory: Path, mesh: DeviceMesh, precision: str, device: str) -> Teacher:
    model = empty_model(read_config(directory))
    teacher = Teacher(model)
    shard(teacher, model.layers, mesh, Layout(), precision)
    allocate(model, device)
    load_weights(model.named_weights(), directory)
    return teacher
