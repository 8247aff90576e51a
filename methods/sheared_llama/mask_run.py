"""One learning of masks, and the training that may follow it: both Composer's."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from espalier.contract.manifest import METRICS, TRACKERS
from espalier.contract.progress import Progress, keep_before
from methods.sheared_llama.batch_loss import BatchLoss
from methods.sheared_llama.composer_run import ComposerRun, Trained
from methods.sheared_llama.domains import Source
from methods.sheared_llama.following import figures_of_masks
from methods.sheared_llama.lagrangian import Lagrangian
from methods.sheared_llama.learning import MaskLearning, optimizer, optimizer_of_weights
from methods.sheared_llama.masks import Masks
from methods.sheared_llama.model import ShearedModel, StockModel
from methods.sheared_llama.proportions import Float64
from methods.sheared_llama.sampler import DomainSampler
from methods.sheared_llama.saved import FOLDER, RECOVERY, steps_saved
from methods.sheared_llama.spec import ShearedLlamaParameters
from methods.sheared_llama.target import Target


@dataclass(frozen=True)
class Learned:
    """What came out: the trained model, where the data stopped, and every evaluation."""

    model: ShearedModel
    sampler: DomainSampler
    evaluations: list[dict[str, Any]]


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
        steps: how many batches masks are learned on.
        recovery_steps: how many are trained on after them.
        precision: `bf16` or `float32`.
        device: `cpu` or `cuda`.
        scratch: where checkpoints lie, of which the last is gone on from.
        output: of the result; a tracker writes there.
    """

    parameters: ShearedLlamaParameters
    target: Target
    train: Mapping[str, Source]
    held_out: Mapping[str, Source]
    proportions: Float64
    references: Mapping[str, float]
    steps: int
    recovery_steps: int
    precision: str
    device: str
    scratch: Path
    output: Path

    def model(self, stock: Any) -> ShearedModel:
        """The model before the first step; `stock` is float32."""
        parameters, parent = self.parameters, self.target.parent
        generator = torch.Generator().manual_seed(parameters.seed)
        masks = Masks(parent, generator)
        lagrangian = Lagrangian(self.target, parameters.beginning(self.steps))
        return ShearedModel(stock, masks, lagrangian, len(self.train))

    def learn(self, model: ShearedModel, progress: Progress) -> Learned:
        """Train the model of `model` in place.

        Raises:
            Interrupted: a signal ended it; what was learned is saved.
            InputError: a held-out loss has become NaN, or the last checkpoint cannot be read.
            Diverged: the loss has.
        """
        parameters = self.parameters
        saved = (steps_saved(self.scratch, folder) for folder in (FOLDER, RECOVERY))
        keep_before(self.output / METRICS, sum(saved))
        sizes = {name: len(source) for name, source in self.train.items()}
        sampler = DomainSampler(sizes, self.proportions, parameters.batch, parameters.seed)
        learning = MaskLearning(self.target, parameters.seed, sampled=parameters.masks == "sampled")
        run = self._learning
        trained = Trained(
            model=model,
            optimizer=optimizer(
                model,
                weights=parameters.lr,
                masks=parameters.mask_lr,
                multipliers=parameters.lag_lr,
            ),
            loss=lambda: learning.cross_entropy,
            figures=partial(figures_of_masks, parent=self.target.parent, seqlen=run.seqlen),
            algorithms=[learning],
        )
        return Learned(model, sampler, run.fit(trained, sampler, progress))

    def recover(
        self, stock: Any, sampler: DomainSampler, progress: Progress
    ) -> list[dict[str, Any]]:
        """Train what is left in place, from the rows on that masks were not learned on.

        Args:
            stock: the extracted model, float32.
            sampler: where the learning of masks stopped; it goes on there.
            progress: is told of steps, evaluations and epochs.

        Returns:
            Every evaluation, whose steps are counted on from those of the masks.

        Raises:
            Interrupted, InputError, Diverged: as `learn`.
        """
        parameters, rows = self.parameters, self.parameters.rows_of_recovery
        sampler.batch = rows
        loss = BatchLoss()
        learning = self._learning
        run = replace(
            learning,
            title="recover",
            rows=rows,
            steps=self.recovery_steps,
            beginning=parameters.beginning_of_recovery(self.recovery_steps),
            folder=RECOVERY,
            trackers=learning.trackers / RECOVERY,
            before=self.steps,
        )
        trained = Trained(
            model=StockModel(stock, len(self.train)),
            optimizer=optimizer_of_weights(stock.parameters(), parameters.rate_of_recovery),
            loss=lambda: loss.cross_entropy,
            callbacks=[loss],
        )
        return run.fit(trained, sampler, progress)

    @property
    def _learning(self) -> ComposerRun:
        """How masks are learned."""
        return ComposerRun(
            title="shear",
            parameters=self.parameters,
            train=self.train,
            held_out=self.held_out,
            references=self.references,
            rows=self.parameters.batch,
            steps=self.steps,
            beginning=self.parameters.beginning(self.steps),
            precision=self.precision,
            device=self.device,
            scratch=self.scratch,
            folder=FOLDER,
            trackers=self.output / TRACKERS,
        )
