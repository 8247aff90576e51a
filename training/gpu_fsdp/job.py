"""What one training run is given, as every rank reads it from the disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from espalier.data.tokens.reader import TokenData
from espalier.errors import InputError
from espalier.models.shapes import Shapes, read_config
from training.gpu_fsdp.loss import Weights
from training.gpu_fsdp.spec import TrainingParameters
from training.protocol.budget import Budget
from training.protocol.run import Run, Start


@dataclass(frozen=True)
class FsdpRun(Run):
    """A run, and whom it is taught by."""

    parameters: TrainingParameters
    teacher: Path | None = None

    @classmethod
    def of(cls, parameters: TrainingParameters, inputs: Mapping[str, Path]) -> "FsdpRun":
        """Read a stage's inputs.

        Raises:
            InputError: they do not fit together, or not the parameters.
        """
        start, teacher = Start.of(parameters, inputs), inputs.get("teacher")
        data, shapes = TokenData(inputs["data"]), Shapes.of(start.config)
        _check_data(data, start.tokenizer, shapes)
        seqlen = parameters.sequence_length(shapes.positions)
        if teacher is not None:
            _check_teacher(parameters, teacher, data, shapes, seqlen)
        elif parameters.ce_weight == 0:
            raise InputError("CE_WEIGHT=0 leaves nothing to train on; give a TEACHER.")
        available, _ = data.counts("train")
        return cls(
            parameters=parameters,
            data=inputs["data"],
            **start._asdict(),
            teacher=teacher,
            budget=Budget.of(
                tokens=parameters.tokens,
                epochs=parameters.epochs,
                batch=parameters.batch,
                seqlen=seqlen,
                available=available,
            ),
        )

    @property
    def teacher_shapes(self) -> Shapes | None:
        """The teacher's, where there is one."""
        return None if self.teacher is None else Shapes.of(read_config(self.teacher))

    @property
    def notices(self) -> list[str]:
        """As every run's, and what of a teacher's logits is compared."""
        teacher, rows = self.teacher_shapes, self.shapes.vocabulary
        if teacher is None or teacher.vocabulary == rows:
            return super().notices
        return [
            *super().notices,
            f"TEACHER has {teacher.vocabulary} rows of logits and the model {rows}: KL is over the "
            f"first {min(teacher.vocabulary, rows)}, which both have.",
        ]

    @property
    def weights(self) -> Weights:
        """The terms of the objective."""
        distilled = self.teacher is not None
        return Weights(
            cross_entropy=self.parameters.cross_entropy_weight(distilled),
            z_loss=self.parameters.z_loss,
            kl=self.parameters.kl_weight if distilled else 0.0,
            temperature=self.parameters.temperature,
            hidden=self.parameters.hidden_weight if distilled else 0.0,
        )

    def micro_batch(self, world: int) -> int:
        """Sequences a rank takes at once: MICRO_BATCH, or about 8192 tokens.

        Raises:
            InputError: the ranks do not divide BATCH, or MICRO_BATCH not a rank's part of it.
        """
        share = self.parameters.share(world, "processes")
        return self.parameters.sequences_at_once(share, self.budget.seqlen)


def _check_data(data: TokenData, tokenizer: Path, shapes: Shapes) -> None:
    data.require_tokenizer_of(tokenizer)
    if data.index.vocabulary > shapes.vocabulary:
        raise InputError(
            f"{data.directory} has tokens up to {data.index.vocabulary} and the vocabulary of "
            f"{tokenizer} ends at {shapes.vocabulary}; make the data with its own tokenizer."
        )


def _check_teacher(
    parameters: TrainingParameters, teacher: Path, data: TokenData, shapes: Shapes, seqlen: int
) -> None:
    _check_data(data, teacher, Shapes.of(read_config(teacher)))
    check_distillation(parameters, Shapes.of(read_config(teacher)), shapes, seqlen)


def check_distillation(
    parameters: TrainingParameters, teacher_shapes: Shapes, shapes: Shapes, seqlen: int
) -> None:
    """Refuse a teacher whose outputs cannot be compared with the model's.

    Raises:
        InputError: its sizes are others.
    """
    if seqlen > teacher_shapes.positions:
        raise InputError(
            f"SEQLEN={seqlen} is longer than TEACHER's {teacher_shapes.positions} positions; give "
            f"SEQLEN={teacher_shapes.positions} or less."
        )
    if parameters.hidden_weight and teacher_shapes.hidden != shapes.hidden:
        raise InputError(
            f"HIDDEN_WEIGHT compares hidden states and TEACHER's are {teacher_shapes.hidden} "
            f"wide, the model's {shapes.hidden}; leave it out."
        )
