"""What a recovery does in the training loop, in one process."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from espalier.contract.processes import Share
from espalier.models.shapes import read_config
from training.gpu_fsdp.batches import Batches, Sequences
from training.gpu_fsdp.loss import IGNORED, Sums, Weights, summed_losses
from training.gpu_fsdp.model import LanguageModel, Teacher, allocate, empty_model, load_weights
from training.gpu_fsdp.saved import STATES
from training.gpu_fsdp.sharding import DTYPES, recompute
from training.gpu_fsdp.sparsity import Masks
from training.protocol.loop import Loop
from training.protocol.order import Order
from training.protocol.progress import RunFolders
from training.recover.adapters import adapters_of, add_adapters, beside_padding, weights_beside
from training.recover.dropout import Drawn
from training.recover.examples import trimmed
from training.recover.job import RecoverRun
from training.recover.merging import write_merged
from training.recover.state import AdapterStates, load_adapters, put, save_adapters

BEST = "best.safetensors"
"""The adapters with the lowest validation loss so far."""


class RecoverTrainer(Loop[Sequences]):
    """Trains the adapters of one model.

    Attributes:
        adapters: what is trained, float32, by name.
    """

    def __init__(self, job: RecoverRun, place: RunFolders, device: str) -> None:
        self.job, self._device, parameters = job, device, job.parameters
        self._drawn = Drawn(parameters.seed, job.budget.seqlen)
        self._model = _frozen(job.source, job.config, job.precision, device)
        add_adapters(
            self._model, list(job.shapes.matrices), parameters, self._drawn, masked=job.masked
        )
        for layer in self._model.layers if parameters.recompute else ():
            recompute(layer)
        self.adapters = adapters_of(self._model)
        self._padding = Masks({})
        if job.zeros and job.zeros.padded is not None:
            weights = weights_beside(self._model)
            shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
            padded = job.zeros.padding(shapes, job.shapes.head_dim)
            self._padding = Masks(beside_padding(self.adapters, padded))
            self._padding.apply(self.adapters)
        self._teacher = None
        if job.teacher is not None:
            taught = _frozen(job.teacher, read_config(job.teacher), job.precision, device)
            self._teacher = Teacher(taught)
        self._optimizer = AdamW(
            self.adapters.values(),
            lr=parameters.lr,
            betas=(parameters.beta1, parameters.beta2),
            weight_decay=parameters.weight_decay,
            fused=True,
        )
        self._saved = AdapterStates(place.scratch / STATES, self.adapters, self._optimizer)
        super().__init__(job, place, self._saved, alone=True)

    def _batches(self, first: int) -> Iterator[Sequences]:
        job = self.job
        order = Order(job.budget.windows, job.parameters.seed)
        batches = Batches(job.examples.train, order, job.parameters.batch, Share(0, 1))
        return batches.steps(first, job.budget.steps)

    def _step(self, step: int, batch: Sequences) -> dict[str, float]:
        parameters, size = self.job.parameters, self.job.micro_batch
        counted = int((batch.targets != IGNORED).sum())
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        first = step * parameters.batch
        for start, part in zip(range(0, len(batch), size), batch.split(size), strict=True):
            self._drawn.samples = range(first + start, first + start + len(part))
            found = self._losses(part, self.job.weights, self._teacher)
            (found.objective / counted).backward()
            sums += torch.stack([found.cross_entropy, found.kl]).double()
        cross_entropy, kl = (sums / counted).tolist()
        self._padding.apply_to_gradients(self.adapters)
        norm = float(clip_grad_norm_(self.adapters.values(), parameters.clip or math.inf))
        for group in self._optimizer.param_groups:
            group["lr"] = parameters.rate(step, self.job.budget.steps)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._padding.apply(self.adapters)
        measured = {"loss": cross_entropy, "grad_norm": norm}
        return measured | ({"kl": kl} if self.job.weights.kl else {})

    def _losses(self, part: Sequences, weights: Weights, teacher: Teacher | None = None) -> Sums:
        """Sums over the targets that count."""
        part = trimmed(part).to(self._device)
        counted = part.targets != IGNORED  # [B, L]
        taught = None
        if teacher is not None:
            with torch.no_grad():
                states, head = teacher(part, False)
            taught = (states[-1][counted], head)
        hidden = self._model.states(part, every=False)[-1][counted]  # [targets, D]
        return summed_losses(hidden, self._model.head, part.targets[counted], weights, taught)

    def _validate(self) -> float | None:
        examples, size = self.job.examples, self.job.micro_batch
        if examples.valid is None:
            return None
        total, counted = 0.0, 0
        self._model.eval()
        with torch.no_grad():
            for first in range(0, examples.held_out, size):
                numbers = np.arange(first, min(first + size, examples.held_out))
                part = examples.valid.read(numbers)
                total += float(self._losses(part, Weights()).cross_entropy)
                counted += int((part.targets != IGNORED).sum())
        self._model.train()
        return total / counted

    def _agreed(self, asked: bool) -> bool:
        return asked

    def _load(self, step: int) -> dict[str, Any]:
        return self._saved.load(step)

    def _save(self, step: int) -> None:
        if broken := self._padding.broken(self.adapters):
            raise RuntimeError(f"{broken} weights of the padding are not zero at step {step}")
        self._saved.save(step, asdict(self.facts))

    def _write(self, target: Path) -> None:
        job = self.job
        write_merged(self._model, job.source, target, job.config, zeros=job.masked)

    def _keep_best(self) -> None:
        save_adapters(self._place.scratch / BEST, self.adapters)

    def _publish_best(self) -> None:
        last = {name: weight.detach().clone() for name, weight in self.adapters.items()}
        load_adapters(self._place.scratch / BEST, self.adapters)
        self._write(self._place.best)
        put(self.adapters, last)

    def merged_difference(self) -> float:
        """How far the logits of what was written are from those of what was trained.

        Of one sequence, relative to the largest. The model is what was written afterwards.
        """
        trained = self._logits()
        load_weights(weights_beside(self._model), self._place.output)
        nothing = {name: torch.zeros_like(weight) for name, weight in self.adapters.items()}
        put(self.adapters, nothing)
        return float((self._logits() - trained).abs().max() / trained.abs().max())

    def _logits(self) -> Tensor:
        """Of the first sequence that is held out, or trained on, float32 [L, V]."""
        examples = self.job.examples
        part = (examples.valid or examples.train).read(np.zeros(1, np.int64)).to(self._device)
        self._model.eval()
        with torch.no_grad():
            (states,) = self._model.states(part, every=False)
            found: Tensor = linear(states[0], self._model.head).float()
        self._model.train()
        return found


def _frozen(directory: Path, config: Any, precision: str, device: str) -> LanguageModel:
    """A checkpoint's model on the device, in the dtype of its products."""
    model: LanguageModel = empty_model(config).to(DTYPES[precision])
    allocate(model, device)
    model.stock.tie_weights()  # each module has got memory of its own
    load_weights(model.named_weights(), directory)
    model.requires_grad_(False)
    return model
