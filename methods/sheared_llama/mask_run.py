"""One learning of masks: a Composer Trainer, from the beginning or from its last checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from composer import Evaluator, Trainer
from composer.algorithms import GradientClipping
from composer.core import DataSpec
from composer.optim import (
    ComposerScheduler,
    CosineAnnealingScheduler,
    CosineAnnealingWithWarmupScheduler,
)
from torch.utils.data import DataLoader

from espalier.contract.manifest import METRICS, TRACKERS
from espalier.contract.progress import Progress, keep_before
from espalier.contract.signals import handled
from espalier.errors import Interrupted
from espalier.models.checkpoint.states import only_known, require_readable
from methods.sheared_llama.batches import Batch, DomainBatches, EveryRow
from methods.sheared_llama.domains import Source
from methods.sheared_llama.following import SIGNALS, Following
from methods.sheared_llama.lagrangian import Lagrangian
from methods.sheared_llama.learning import MaskLearning, optimizer
from methods.sheared_llama.loading import EVALUATOR, DynamicLoading
from methods.sheared_llama.masks import Masks
from methods.sheared_llama.model import LOSSES, ShearedModel
from methods.sheared_llama.proportions import Float64
from methods.sheared_llama.sampler import DomainSampler
from methods.sheared_llama.saved import FILE, FOLDER, LATEST, steps_saved
from methods.sheared_llama.spec import ShearedLlamaParameters
from methods.sheared_llama.target import Target
from methods.sheared_llama.trackers import trackers

PRECISIONS = {"bf16": "amp_bf16", "float32": "fp32"}
FINAL_RATE = 0.1
"""The last learning rates, as a share of the first."""


@dataclass(frozen=True)
class MaskRun:
    """What one run is made of.

    Attributes:
        parameters: the stage's.
        target: what the masks come to.
        train: rows of each domain.
        held_out: rows of each domain that are evaluated.
        proportions: what the run begins with, [K].
        references: loss of each domain that the rule compares with; none where it needs none.
        steps: how many batches.
        precision: `bf16` or `float32`.
        device: `cpu` or `cuda`.
    """

    parameters: ShearedLlamaParameters
    target: Target
    train: Mapping[str, Source]
    held_out: Mapping[str, Source]
    proportions: Float64
    references: Mapping[str, float]
    steps: int
    precision: str
    device: str

    def model(self, stock: Any) -> ShearedModel:
        """The model before the first step; `stock` is float32."""
        parameters, parent = self.parameters, self.target.parent
        generator = torch.Generator().manual_seed(parameters.seed)
        masks = Masks(parent, generator)
        lagrangian = Lagrangian(self.target, parameters.beginning(self.steps))
        return ShearedModel(stock, masks, lagrangian, len(self.train))

    def learn(
        self, model: ShearedModel, scratch: Path, output: Path, progress: Progress
    ) -> "Learned":
        """Train the model in place.

        Args:
            model: of `model`.
            scratch: where checkpoints lie, of which the last is gone on from.
            output: of the result; a tracker writes there.
            progress: is told of steps, evaluations and epochs.

        Raises:
            Interrupted: a signal ended it; what was learned is saved.
            InputError: a held-out loss has become NaN, or the last checkpoint cannot be read.
            Diverged: the loss has.
        """
        parameters, rows = self.parameters, self.parameters.batch
        sizes = {name: len(source) for name, source in self.train.items()}
        sampler = DomainSampler(sizes, self.proportions, rows, parameters.seed)
        batches = DomainBatches(
            self.train,
            sampler,
            announce=lambda name, epoch: progress.say(f"{name} ran out; epoch {epoch} begins"),
        )
        evaluated = EveryRow(self.held_out, parameters.valid)
        learning = MaskLearning(self.target, parameters.seed, sampled=parameters.masks == "sampled")
        loading = DynamicLoading(sampler, parameters.proportions, self.references, progress)
        folder = scratch / FOLDER
        done = steps_saved(scratch)
        micro = parameters.micro(self.seqlen)
        if done:
            require_readable(folder / LATEST)
        keep_before(output / METRICS, done)
        with only_known(), progress.steps("shear", self.steps, done) as steps:
            following = Following(
                *(steps, learning, scratch, self.target.parent),
                seqlen=self.seqlen,
                last=self.steps,
                save_every=parameters.every(parameters.save_every, self.steps),
                evaluate_every=parameters.every(parameters.eval_every, self.steps),
            )
            trainer = Trainer(
                model=model,
                train_dataloader=batches.loader(),
                eval_dataloader=Evaluator(
                    label=EVALUATOR,
                    dataloader=DataSpec(
                        DataLoader(evaluated, batch_size=micro), split_batch=_whole
                    ),
                    metric_names=[LOSSES],
                ),
                eval_interval=following.evaluates,
                max_duration=f"{self.steps}ba",
                optimizers=optimizer(
                    model,
                    weights=parameters.lr,
                    masks=parameters.mask_lr,
                    multipliers=parameters.lag_lr,
                ),
                schedulers=_schedule(parameters.beginning(self.steps)),
                algorithms=[
                    learning,
                    GradientClipping(clipping_type="norm", clipping_threshold=parameters.clip),
                ],
                callbacks=[loading, following],
                loggers=trackers(parameters.tracker, output / TRACKERS),
                device="gpu" if self.device == "cuda" else "cpu",
                device_train_microbatch_size=min(micro, rows),
                precision=PRECISIONS[self.precision],
                seed=parameters.seed,
                deterministic_mode=True,
                progress_bar=False,
                save_folder=str(folder),
                save_filename=FILE,
                save_latest_filename=LATEST,
                save_interval=following.saves,
                save_overwrite=True,
                save_num_checkpoints_to_keep=2,
                load_path=str(folder / LATEST) if done else None,
            )
            with handled(SIGNALS, following.ask):
                trainer.fit()
            trainer.close()
        if following.asked and int(trainer.state.timestamp.batch) < self.steps:
            raise Interrupted("the learning of masks was stopped; run the same command to resume.")
        return Learned(model, sampler, loading.evaluations)

    @property
    def seqlen(self) -> int:
        """Tokens a row."""
        return next(iter(self.train.values())).seqlen


@dataclass(frozen=True)
class Learned:
    """What came out: the trained model, where the data stopped, and every evaluation."""

    model: ShearedModel
    sampler: DomainSampler
    evaluations: list[dict[str, Any]]


def _schedule(warmed_up: int) -> ComposerScheduler:
    """Of the rates: they rise in so many steps, and fall as a cosine until the last."""
    if not warmed_up:
        return CosineAnnealingScheduler(alpha_f=FINAL_RATE)
    return CosineAnnealingWithWarmupScheduler(t_warmup=f"{warmed_up}ba", alpha_f=FINAL_RATE)


def _whole(batch: Batch, rows: int) -> list[Batch]:
    """What the loader gives passes at once: it has so many rows already, or fewer at its end."""
    return [batch]
