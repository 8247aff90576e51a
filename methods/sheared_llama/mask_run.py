"""One learning of masks, and the training that may follow it: both Composer's."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from composer.utils import dist

from espalier.contract.files import write_text
from espalier.contract.json_text import read_json, to_json
from espalier.contract.manifest import METRICS, TRACKERS
from espalier.contract.progress import Progress, keep_before
from methods.sheared_llama.artifact import DomainRows
from methods.sheared_llama.batch_loss import BatchLoss
from methods.sheared_llama.composer_run import ComposerRun, Trained
from methods.sheared_llama.following import figures_of_masks
from methods.sheared_llama.lagrangian import Lagrangian
from methods.sheared_llama.learning import MaskLearning, optimizer, optimizer_of_weights
from methods.sheared_llama.masks import Masks
from methods.sheared_llama.model import ShearedModel, StockModel
from methods.sheared_llama.proportions import Float64
from methods.sheared_llama.sampler import DomainSampler
from methods.sheared_llama.saved import FOLDER, RECOVERY, SAMPLER, steps_saved
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
        rows: of each domain, to train on and held out.
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
    rows: DomainRows
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
        return ShearedModel(stock, masks, lagrangian, len(self.rows.train))

    def unfinished(self, folder: str) -> bool:
        """Whether steps are left of the training whose checkpoints lie in a folder of `scratch`."""
        steps = {FOLDER: self.steps, RECOVERY: self.recovery_steps}
        return steps_saved(self.scratch, folder) < steps[folder]

    def learn(self, model: ShearedModel, progress: Progress) -> Learned:
        """Train the model of `model` in place.

        Raises:
            Interrupted: a signal ended it; what was learned is saved.
            InputError: a held-out loss has become NaN, or the last checkpoint cannot be read.
            Diverged: the loss has.
        """
        parameters = self.parameters
        if dist.get_global_rank() == 0:
            saved = (steps_saved(self.scratch, folder) for folder in (FOLDER, RECOVERY))
            keep_before(self.output / METRICS, sum(saved))
        sampler = self._sampler()
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
            model=StockModel(stock, len(self.rows.train)),
            optimizer=optimizer_of_weights(stock.parameters(), parameters.rate_of_recovery),
            loss=lambda: loss.cross_entropy,
            callbacks=[loss],
        )
        return run.fit(trained, sampler, progress)

    def leave(self, sampler: DomainSampler) -> None:
        """Note where the learning of masks stopped, for ranks that go on there."""
        write_text(self.scratch / SAMPLER, to_json(sampler.state_dict()))

    def left(self) -> DomainSampler:
        """The sampler where the learning of masks stopped."""
        sampler = self._sampler()
        sampler.load_state_dict(read_json(self.scratch / SAMPLER))
        return sampler

    def _sampler(self) -> DomainSampler:
        """Before the first step."""
        parameters = self.parameters
        sizes = {name: len(source) for name, source in self.rows.train.items()}
        return DomainSampler(sizes, self.proportions, parameters.batch, parameters.seed)

    @property
    def _learning(self) -> ComposerRun:
        """How masks are learned."""
        return ComposerRun(
            title="shear",
            parameters=self.parameters,
            train=self.rows.train,
            held_out=self.rows.held_out,
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
