"""A GPU's memory in one training step, from the step itself on tensors that hold no data.

The trainer's own model, sharding, losses and optimizers run under torch's fake tensors, as the
first rank of a process group whose other ranks are not there, while torch's memory tracker follows
every storage. The fake tensors lie on the CPU, whose attention, like a GPU's, holds no scores.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.nn.utils import clip_grad_norm_
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from espalier.models.found_zeros import is_masked
from training.gpu_fsdp.assembly import Assembled
from training.gpu_fsdp.batches import Sequences
from training.gpu_fsdp.job import FsdpRun
from training.gpu_fsdp.model import LanguageModel, Taught, Teacher, allocate, empty_model
from training.gpu_fsdp.optimizers import optimizers
from training.gpu_fsdp.sharding import Layout, device_mesh, shard
from training.gpu_fsdp.sparsity import Masks, local
from training.plan_gpu.advice import ACTIVATIONS, Peak

UNMASKED = "unmasked_sdpa"
"""Attention without a mask: of fake tensors, transformers cannot see that none is needed."""
KINDS = {
    "Sharded Param": "weights",
    "Sharded Grad": "gradients",
    "Unsharded Grad": "whole gradients",
    "Reduce Scatter": "whole gradients",
    "Unsharded Param": "gathered weights",
    "All Gather": "gathered weights",
    "Activation": ACTIVATIONS,
    "Temp": ACTIVATIONS,
}
"""The tracker's kinds of storage, by what a plan calls them."""


@contextmanager
def pretended_ranks(world: int) -> Iterator[None]:
    """A process group of `world` ranks, of which this is the first and the only one."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()


class Rehearsal:
    """A run's first rank, built but for its data; call it inside `pretended_ranks`.

    Args:
        job: the run; none of its paths is read.
        teacher: its teacher's config.json.
        world: GPUs in all.
        recompute: as RECOMPUTE.
    """

    def __init__(
        self, job: FsdpRun, teacher: Mapping[str, Any] | None, world: int, recompute: bool
    ) -> None:
        self._job, self._world, self._recompute = job, world, recompute
        parameters = job.parameters
        mesh = device_mesh("cpu", world, parameters.replicas)  # of ranks, which are numbers: real
        self._mode = FakeTensorMode()
        with self._mode:
            model = self._attentive(empty_model(job.config))
            layout = Layout(parameters.replicas, recompute)
            shard(model, model.layers, mesh, layout, job.precision)
            allocate(model, "cpu")
            taught, self._taught_bytes = None, 0
            if teacher is not None:
                its = self._attentive(empty_model(teacher))
                taught = Teacher(its)
                shard(taught, its.layers, mesh, Layout(), job.precision)
                allocate(its, "cpu")
                self._taught_bytes = _bytes(taught.parameters())
            weights = model.named_weights()
            kept = {
                name: torch.ones_like(local(weight), dtype=torch.bool)
                for name, weight in weights.items()
                if job.zeros and is_masked(name, weight.shape)
            }
            self._kept = list(kept.values())
            steppers = optimizers(weights, parameters)
            self._parts = Assembled(model, taught, Masks(kept), steppers)
            self._first_step()

    def peak(self, micro_batch: int) -> Peak:
        """The fullest moment of a step of as many micro batches as BATCH takes."""
        parts, share = self._parts, self._job.parameters.batch // self._world
        if micro_batch == share:  # else gradients of the micro batch before are there already
            parts.model.zero_grad()
        with self._mode:
            sequences = self._sequences(share)
            moments = [
                value
                for optimizer in parts.optimizers
                for state in optimizer.state.values()
                for value in state.values()
                if isinstance(value, Tensor)
            ]
            held = {
                "optimizer": moments,
                "masks": self._kept,
                "sequences": [t for t in vars(sequences).values() if isinstance(t, Tensor)],
            }
            tracker = _Tracker([m for m in (parts.model, parts.teacher) if m is not None])
            tracker.track_inputs(tuple(t for tensors in held.values() for t in tensors))
            with tracker:
                self._step(next(sequences.split(micro_batch)))
            found = dict.fromkeys(KINDS.values(), 0)
            for kind, size in tracker.at_peak().items():
                if kind in KINDS:
                    found[KINDS[kind]] += size
        found |= {what: _bytes(tensors) for what, tensors in held.items()}
        found["teacher"] = self._taught_bytes
        found["weights"] -= self._taught_bytes
        return Peak(self._recompute, micro_batch, {k: size for k, size in found.items() if size})

    def _attentive(self, model: LanguageModel) -> LanguageModel:
        """With the attention masks that the real run will make, and no others."""
        window = getattr(model.stock.config, "sliding_window", None) or math.inf
        if not self._job.parameters.document_mask and self._job.budget.seqlen < window:
            AttentionInterface.register(UNMASKED, sdpa_attention_forward)
            model.stock.set_attn_implementation(UNMASKED)
        return model

    def _first_step(self) -> None:
        """Make gradients and moments, which all steps but the first find there."""
        for weight in self._parts.model.parameters():
            weight.grad = torch.zeros_like(weight)
        self._update()

    def _sequences(self, count: int) -> Sequences:
        ids = torch.zeros(count, self._job.budget.seqlen, dtype=torch.int64)
        if not self._job.parameters.document_mask:
            return Sequences(ids, ids.clone(), None)
        return Sequences(ids, ids.clone(), ids.clone(), np.ones(count, np.bool_))

    def _step(self, part: Sequences) -> None:
        """The last micro batch of a step, as the trainer runs it."""
        parts, weights, taught = self._parts, self._job.weights, None
        if parts.teacher is not None:
            with torch.no_grad():
                taught = Taught(*parts.teacher(part, weights.hidden > 0))
        found = parts.model(part, weights, taught)
        (found.objective / self._job.budget.step_tokens).backward()
        self._update()

    def _update(self) -> None:
        parts = self._parts
        weights = parts.model.named_weights()
        parts.masks.apply_to_gradients(weights)
        clip_grad_norm_(weights.values(), self._job.parameters.clip or math.inf)
        for optimizer in parts.optimizers:
            optimizer.step()
        parts.masks.apply(weights)


class _Tracker(FSDPMemTracker):  # type: ignore[misc]
    """Follows several sharded models at once."""

    def __init__(self, models: list[nn.Module]) -> None:
        super().__init__(models[0])
        self._root_mod = nn.ModuleList(models)

    def at_peak(self) -> dict[str, int]:
        """Bytes by the tracker's kinds of storage."""
        snapshot = self.get_tracker_snapshot("peak")[torch.device("cpu")]
        return {kind.value: size for kind, size in snapshot.items() if hasattr(kind, "value")}


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of this rank's parts of distinct tensors."""
    return sum(local(tensor).numel() * tensor.element_size() for tensor in tensors)
