"""One run of Composer's Trainer on rows of domains, from the beginning or its last checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer import Algorithm, Callback, Evaluator, State, Trainer
from composer.core import DataSpec
from composer.optim import (
    ComposerScheduler,
    CosineAnnealingScheduler,
    CosineAnnealingWithWarmupScheduler,
)
from composer.utils import FSDP2Config, dist
from torch.utils.data import DataLoader

from espalier.contract.progress import Progress
from espalier.contract.signals import STOPS, handled
from espalier.errors import Interrupted
from espalier.models.checkpoint.states import only_known, require_readable
from methods.sheared_llama.batches import Batch, DomainBatches, EveryRow
from methods.sheared_llama.clipping import Clipping
from methods.sheared_llama.domains import Source
from methods.sheared_llama.following import Following
from methods.sheared_llama.loading import EVALUATOR, DynamicLoading
from methods.sheared_llama.model import LOSSES, StockModel
from methods.sheared_llama.plain_path import plain_path
from methods.sheared_llama.sampler import DomainSampler
from methods.sheared_llama.saved import FILE, LATEST, STOP, steps_saved
from methods.sheared_llama.spec import ShearedLlamaParameters
from methods.sheared_llama.trackers import trackers

PRECISIONS = {"bf16": "amp_bf16", "float32": "fp32"}
FINAL_RATE = 0.1
"""The last learning rates, as a share of the first."""


@dataclass(frozen=True)
class Trained:
    """What is trained, and by which rules.

    Attributes:
        model: trained in place.
        optimizer: over its parameters.
        loss: of the batch before, nats a token.
        figures: what else there is to say of a step, by name.
        algorithms: Composer's, beside the clipping of gradients.
        callbacks: Composer's, before those of the run.
    """

    model: StockModel
    optimizer: Any
    loss: Callable[[], float]
    figures: Callable[[State], Mapping[str, float]] = lambda state: {}
    algorithms: Sequence[Algorithm] = ()
    callbacks: Sequence[Callback] = field(default=())


@dataclass(frozen=True)
class ComposerRun:
    """How it is run.

    Attributes:
        title: of its steps.
        parameters: the stage's.
        train: rows of each domain.
        held_out: rows of each domain that are evaluated.
        references: loss of each domain that the rule compares with; none where it needs none.
        rows: a batch.
        steps: how many batches.
        beginning: steps in which rates rise.
        before: steps of the stage that another run has made.
        precision: `bf16` or `float32`.
        device: `cpu` or `cuda`.
        scratch: the stage's, where checkpoints lie.
        folder: in it.
        trackers: where a tracker writes.
    """

    title: str
    parameters: ShearedLlamaParameters
    train: Mapping[str, Source]
    held_out: Mapping[str, Source]
    references: Mapping[str, float]
    rows: int
    steps: int
    beginning: int
    precision: str
    device: str
    scratch: Path
    folder: str
    trackers: Path
    before: int = 0

    def fit(
        self, trained: Trained, sampler: DomainSampler, progress: Progress
    ) -> list[dict[str, Any]]:
        """Train, on all ranks together, and give every evaluation.

        Args:
            trained: what is trained.
            sampler: of the batches.
            progress: is told of steps, evaluations and epochs.

        Raises:
            Interrupted: a signal ended it; what was learned is saved.
            InputError: a held-out loss has become NaN, or the last checkpoint cannot be read.
            Diverged: the loss has.
        """
        parameters, folder = self.parameters, self.scratch / self.folder
        batches = DomainBatches(
            self.train,
            sampler,
            rank=dist.get_global_rank(),
            world=dist.get_world_size(),
            announce=lambda name, epoch: progress.say(f"{name} ran out; epoch {epoch} begins"),
        )
        loading = DynamicLoading(
            sampler, parameters.proportions, self.references, progress, self.before
        )
        micro = min(parameters.micro(self.seqlen), self.rows // dist.get_world_size())
        done = steps_saved(self.scratch, self.folder)
        ended = done == self.steps
        if done:
            require_readable(folder / LATEST)
        if parameters.recompute:
            # The kind that runs back once, as masks are read from outside the layers.
            trained.model.stock.gradient_checkpointing_enable({"use_reentrant": False})
        total = self.before + self.steps
        with (
            only_known(),
            plain_path(folder) as plain,
            plain_path(self.trackers) as tracked,
            progress.steps(self.title, total, self.before + done) as steps,
        ):
            following = Following(
                *(steps, lambda: self.before + steps_saved(self.scratch, self.folder)),
                *(trained.loss, trained.figures),
                stop=self.scratch / STOP,
                last=self.steps,
                save_every=parameters.every(parameters.save_every, self.steps),
                evaluate_every=parameters.every(parameters.eval_every, self.steps),
            )
            trainer = Trainer(
                model=trained.model,
                train_dataloader=batches.loader(),
                eval_dataloader=self._evaluator(),
                eval_interval=following.evaluates,
                max_duration=f"{self.steps}ba",
                optimizers=trained.optimizer,
                schedulers=_schedule(self.beginning),
                algorithms=[*trained.algorithms, Clipping(parameters.clip)],
                callbacks=[*trained.callbacks, loading, following],
                device_train_microbatch_size=micro,
                seed=parameters.seed,
                deterministic_mode=True,
                parallelism_config=_sharded(),
                progress_bar=False,
                save_folder=str(plain),
                save_filename=FILE,
                save_latest_filename=LATEST,
                save_interval=following.saves,
                save_overwrite=True,
                save_num_checkpoints_to_keep=2,
                load_path=str(plain / LATEST) if done else None,
                **(_ended() if ended else self._at_work(tracked)),
            )
            if not ended:
                with handled(STOPS, following.ask):
                    trainer.fit()
            trainer.close()
        if following.ends and int(trainer.state.timestamp.batch) < self.steps:
            raise Interrupted("the training was stopped; run the same command to resume.")
        return loading.evaluations

    @property
    def seqlen(self) -> int:
        """Tokens a row."""
        return next(iter(self.train.values())).seqlen

    def _at_work(self, tracked: Path) -> dict[str, Any]:
        """How a Trainer trains; the first rank writes for all."""
        tracker = self.parameters.tracker if dist.get_global_rank() == 0 else "none"
        return {
            "device": "gpu" if self.device == "cuda" else "cpu",
            "precision": PRECISIONS[self.precision],
            "loggers": trackers(tracker, tracked),
        }

    def _evaluator(self) -> Evaluator:
        rows = EveryRow(self.held_out, self.parameters.valid)
        loader = DataLoader(
            *(rows, self.parameters.micro(self.seqlen)),
            sampler=dist.get_sampler(rows, drop_last=False, shuffle=False),
        )
        return Evaluator(
            label=EVALUATOR,
            dataloader=DataSpec(loader, split_batch=_beginning),
            metric_names=[LOSSES],
        )


def _schedule(warmed_up: int) -> ComposerScheduler:
    """Of the rates: they rise in so many steps, and fall as a cosine until the last."""
    if not warmed_up:
        return CosineAnnealingScheduler(alpha_f=FINAL_RATE)
    return CosineAnnealingWithWarmupScheduler(t_warmup=f"{warmed_up}ba", alpha_f=FINAL_RATE)


def _ended() -> dict[str, Any]:
    """How a Trainer loads what has come to its end: on the host, as one GPU may be too small."""
    return {
        "device": "cpu",
        "precision": "fp32",
        "load_ignore_keys": lambda saved: saved["state"].pop("optimizers", None),
    }


def _sharded() -> dict[str, Any] | None:
    """Composer's FSDP of several ranks; None: there is one.

    A checkpoint is one file, whatever the number of ranks, and only the first rank reads it.
    """
    if dist.get_world_size() == 1:
        return None
    config = FSDP2Config(
        state_dict_type="full", load_monolith_rank0_only=True, mixed_precision="FULL"
    )
    return {"fsdp": config}


def _beginning(batch: Batch, rows: int) -> list[Batch]:
    """The first rows of what the loader gives, which passes at once.

    They are all, but where Composer takes off the row that makes ranks equal at the end.
    """
    return [{name: values[:rows] for name, values in batch.items()}]
