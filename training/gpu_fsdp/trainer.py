"""The training loop of one rank."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from espalier.errors import Interrupted
from espalier.token_data.reader import TokenData
from training.gpu_fsdp.assembly import Assembled, assemble
from training.gpu_fsdp.batches import Batches, Sequences, Windows
from training.gpu_fsdp.export import export
from training.gpu_fsdp.job import Job
from training.gpu_fsdp.loss import IGNORED
from training.gpu_fsdp.model import Taught
from training.gpu_fsdp.sharding import release
from training.gpu_fsdp.state import TrainingState
from training.protocol.metrics import Metrics
from training.protocol.order import Order, Share
from training.protocol.progress import Diverged, Facts, Place


class Trainer:
    """One rank's part of a run."""

    def __init__(self, job: Job, place: Place, device: str, share: Share) -> None:
        self.job, self._place, self._device, self._share = job, place, device, share
        self._micro = job.micro_batch(share.world)
        data = TokenData(job.data)
        parameters, seqlen = job.parameters, job.budget.seqlen
        masked = parameters.document_mask
        windows = Windows(data, "train", seqlen, masked)
        self._batches = Batches(
            windows, Order(windows.count, parameters.seed), parameters.batch, share
        )
        self._valid = _validation(data, seqlen, masked, parameters.valid_tokens)
        self._parts: Assembled = assemble(job, device, share.world)
        self._state = TrainingState(
            place.scratch / "state", self._parts.model, self._parts.optimizers, share.rank
        )
        self.facts, self._waited = Facts(), 0.0

    def resume(self) -> int:
        """Load the last complete checkpoint; the step that comes next."""
        step = self._state.latest()
        if step is None:
            return 0
        self.facts = Facts.of(self._state.load(step))
        return step

    def run(self, first: int, steps: Metrics) -> None:
        """Train from step `first` to the last, and write the result to the output.

        Raises:
            Interrupted: asked to stop; all is saved.
            Diverged: the loss is NaN or infinite.
        """
        parameters, total = self.job.parameters, self.job.budget.steps
        for step, sequences in zip(range(first, total), self._timed(first), strict=True):
            values = self._step(step, sequences)
            done, self.facts.loss = step + 1, values["loss"]
            if self._valid and parameters.due(parameters.valid_every, done, total):
                values["valid_loss"] = self._validate(done)
            steps.advance(**values)
            stop = self._asked_to_stop()
            if stop or parameters.due(parameters.save_every, done, total):
                self._save(done)
            if stop and done < total:
                self._state.wait()
                raise Interrupted("interrupted; the same command goes on from here.")
        self._state.wait()
        self._export(self._place.output)

    def _timed(self, first: int) -> Iterator[Sequences]:
        """The batches, and how long each of them was waited for."""
        batches = self._batches.steps(first, self.job.budget.steps)
        while True:
            began = time.perf_counter()
            sequences = next(batches, None)
            self._waited = time.perf_counter() - began
            if sequences is None:
                return
            yield sequences

    def _step(self, step: int, sequences: Sequences) -> dict[str, float]:
        """One optimizer step over the whole batch; its metrics."""
        began = time.perf_counter()
        parameters, parts, budget = self.job.parameters, self._parts, self.job.budget
        rate = parameters.rate(step, budget.steps)
        # FSDP averages gradients over the ranks; the objective is a mean over the whole batch.
        scale = self._share.world / budget.step_tokens
        sums = torch.zeros(2, dtype=torch.float64)  # cross-entropy and KL
        for part in sequences.to(self._device).split(self._micro):
            found = parts.model(part, self.job.weights, self._taught(part))
            (found.objective * scale).backward()
            sums += torch.stack([found.cross_entropy, found.kl]).double().cpu()
        cross_entropy, kl = (_summed(sums) / budget.step_tokens).tolist()
        weights = parts.model.named_weights()
        parts.masks.apply_to_gradients(weights)
        norm = _number(clip_grad_norm_(weights.values(), parameters.clip or math.inf))
        if not math.isfinite(cross_entropy + kl + norm):
            self._diverged(step + 1)
        for optimizer in parts.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        parts.masks.apply(weights)
        seconds = time.perf_counter() - began + self._waited
        metrics = {
            "loss": cross_entropy,
            "tokens": (step + 1) * budget.step_tokens,
            "lr": rate,
            "grad_norm": norm,
            "tokens_per_second": budget.step_tokens / seconds,
            "data_share": self._waited / seconds,
        }
        return metrics | ({"kl": kl} if self.job.weights.kl else {})

    def _taught(self, part: Sequences) -> Taught | None:
        if self._parts.teacher is None:
            return None
        with torch.no_grad():
            return Taught(*self._parts.teacher(part, self.job.weights.hidden > 0))

    def _validate(self, step: int) -> float:
        """Mean cross-entropy of the validation windows; the best weights so far are kept."""
        windows, share = self._valid, self._share
        assert windows is not None  # noqa: S101
        sums = torch.zeros(1, dtype=torch.float64)
        weights = type(self.job.weights)()
        rounds = math.ceil(windows.limit / (share.world * self._micro))
        self._parts.model.eval()
        with torch.no_grad():
            for number in range(rounds):  # as many on every rank: each gathers weights from all
                first = (number * share.world + share.rank) * self._micro
                wanted = torch.arange(first, first + self._micro)
                sequences = windows.read((wanted % windows.limit).numpy())
                sequences.targets[wanted >= windows.limit] = IGNORED  # counted already
                found = self._parts.model(sequences.to(self._device), weights)
                sums += found.cross_entropy.double().cpu()
        self._parts.model.train()
        release(self._parts.model)
        loss = float(_summed(sums)) / (windows.limit * self.job.budget.seqlen)
        if not math.isfinite(loss):
            self._diverged(step)
        self.facts.valid.append((step, loss))
        if self.facts.best is None or loss < self.facts.best[1]:
            self.facts.best = (step, loss)
            if step < self.job.budget.steps:
                self._export(self._place.best)
        return loss

    def _save(self, step: int) -> None:
        broken = self._parts.masks.broken(self._parts.model.named_weights())
        if broken:
            raise RuntimeError(f"{broken} pruned weights are not zero at step {step}")
        self._state.save(step, asdict(self.facts))

    def _export(self, target: Path) -> None:
        export(
            self._parts.model, target, dict(self.job.config), self.job.tokenizer, self._share.rank
        )
        dist.barrier()

    def _asked_to_stop(self) -> bool:
        """Whether the first rank sees the file that asks for it: all of them stop together."""
        asked = self._place.stop.exists() if self._share.rank == 0 else False
        return bool(_summed(torch.tensor([float(asked)])))

    def _diverged(self, step: int) -> None:
        self._state.wait()
        raise Diverged.at(step, self._state.latest())


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
    """Sums over all ranks, of a small tensor on the CPU."""
    if dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values


def _number(norm: Tensor) -> float:
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
