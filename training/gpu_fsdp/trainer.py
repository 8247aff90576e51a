"""What one rank does in a training loop."""

import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from espalier.contract.processes import Share
from espalier.data.tokens.reader import TokenData
from training.gpu_fsdp.assembly import Assembled, assemble
from training.gpu_fsdp.batches import Batches, Sequences, Windows
from training.gpu_fsdp.export import export
from training.gpu_fsdp.job import FsdpRun
from training.gpu_fsdp.model import Taught
from training.gpu_fsdp.saved import STATES
from training.gpu_fsdp.sharding import release
from training.gpu_fsdp.state import TrainingState
from training.protocol.loop import Loop
from training.protocol.order import Order
from training.protocol.progress import RunFolders

KEPT = "best"


class FsdpTrainer(Loop[Sequences]):
    """One rank's part of a run."""

    def __init__(self, job: FsdpRun, place: RunFolders, device: str, share: Share) -> None:
        self.job, self._device, self._share = job, device, share
        self._micro = job.micro_batch(share.world)
        data = TokenData(job.data)
        parameters, seqlen = job.parameters, job.budget.seqlen
        masked = parameters.document_mask
        windows = Windows(data, "train", seqlen, masked)
        self._read_ahead = Batches(
            windows, Order(windows.count, parameters.seed), parameters.batch, share
        )
        self._valid = _validation(data, seqlen, masked, parameters.valid_tokens)
        self._parts: Assembled = assemble(job, device, share.world)
        self._state = TrainingState(
            place.scratch / STATES, self._parts.model, self._parts.optimizers, share.rank
        )
        super().__init__(job, place, self._state, alone=share.world == 1)

    def _batches(self, first: int) -> Iterator[Sequences]:
        return self._read_ahead.steps(first, self.job.budget.steps)

    def _step(self, step: int, batch: Sequences) -> dict[str, float]:
        parameters, parts, budget = self.job.parameters, self._parts, self.job.budget
        rate = parameters.rate(step, budget.steps)
        # FSDP averages gradients over the ranks; the objective is a mean over the whole batch.
        scale = self._share.world / budget.step_tokens
        # Cross-entropy and KL; they stay on the device, so that no part waits for the one before.
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        for part in batch.to(self._device).split(self._micro):
            found = parts.model(part, self.job.weights, self._taught(part))
            (found.objective * scale).backward()
            sums += torch.stack([found.cross_entropy, found.kl]).double()
        cross_entropy, kl = (_summed(sums) / budget.step_tokens).tolist()
        weights = parts.model.named_weights()
        parts.masks.apply_to_gradients(weights)
        norm = _number(clip_grad_norm_(weights.values(), parameters.clip or math.inf))
        for optimizer in parts.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        parts.masks.apply(weights)
        measured = {"loss": cross_entropy, "grad_norm": norm}
        return measured | ({"kl": kl} if self.job.weights.kl else {})

    def _taught(self, part: Sequences) -> Taught | None:
        if self._parts.teacher is None:
            return None
        with torch.no_grad():
            return Taught(*self._parts.teacher(part, self.job.weights.hidden > 0))

    def _validate(self) -> float | None:
        windows, share = self._valid, self._share
        if windows is None:
            return None
        sums = torch.zeros(1, dtype=torch.float64, device=self._device)
        weights = type(self.job.weights)()
        rounds = math.ceil(windows.limit / (share.world * self._micro))
        self._parts.model.eval()
        with torch.no_grad():
            for number in range(rounds):  # as many on every rank: each gathers weights from all
                first = (number * share.world + share.rank) * self._micro
                wanted = torch.arange(first, first + self._micro)
                sequences = windows.read((wanted % windows.limit).numpy())
                sequences = sequences.counting(wanted < windows.limit)  # the rest was counted
                found = self._parts.model(sequences.to(self._device), weights)
                sums += found.cross_entropy.double()
        self._parts.model.train()
        release(self._parts.model)
        return float(_summed(sums)) / (windows.limit * self.job.budget.seqlen)

    def _agreed(self, asked: bool) -> bool:
        return bool(_summed(torch.tensor([float(asked)])))

    def _load(self, step: int) -> dict[str, Any]:
        return self._state.load(step)

    def _save(self, step: int) -> None:
        broken = self._parts.masks.broken(self._parts.model.named_weights())
        if broken:
            raise RuntimeError(f"{broken} pruned weights are not zero at step {step}")
        self._state.save(step, asdict(self.facts))

    def _write(self, target: Path) -> None:
        job = self.job
        export(self._parts.model, target, dict(job.config), job.tokenizer, self._share.rank)
        dist.barrier()

    def _keep_best(self) -> None:
        self._write(self._place.scratch / KEPT)

    def _publish_best(self) -> None:
        kept = self._place.scratch / KEPT
        if self._share.rank == 0 and kept.is_dir():  # else an interrupted run was here before
            shutil.rmtree(self._place.best, ignore_errors=True)
            kept.rename(self._place.best)
        dist.barrier()


@dataclass(frozen=True)
class ValidationWindows:
    """The first windows of the valid split."""

    windows: Windows
    limit: int

    def read(self, numbers: Any) -> Sequences:
        return self.windows.read(numbers)


def _validation(
    data: TokenData, seqlen: int, masked: bool, tokens: int
) -> ValidationWindows | None:
    if "valid" not in data.splits:
        return None
    windows = Windows(data, "valid", seqlen, masked)
    limit = min(windows.count, max(1, tokens // seqlen))
    return ValidationWindows(windows, limit) if limit else None


def _summed(values: Tensor) -> Tensor:
    """Sums over all ranks, of a small tensor, on the CPU: waits for the device, so once a step."""
    summed = values.to("cpu", copy=True)
    if dist.get_world_size() > 1:
        dist.all_reduce(summed)
    return summed


def _number(norm: Tensor) -> float:
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
