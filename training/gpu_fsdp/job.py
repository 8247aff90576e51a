"""What one training run is given, as every rank reads it from the disk."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from espalier.data.tokens.reader import TokenData
from espalier.errors import InputError
from espalier.models.shapes import Shapes, read_config
from training.gpu_fsdp.loss import Weights
from training.gpu_fsdp.spec import TrainingParameters
from training.gpu_fsdp.teaching import TaughtRun, check_objective, check_positions
from training.protocol.budget import Budget
from training.protocol.run import Start


@dataclass(frozen=True)
class FsdpRun(TaughtRun):
    """A run that trains all weights."""

    parameters: TrainingParameters

    @classmethod
    def of(cls, parameters: TrainingParameters, inputs: Mapping[str, Path]) -> "FsdpRun":
        """Read a stage's inputs.

        Raises:
            InputError: they do not fit together, or not the parameters.
        """
        start, teacher = Start.of(parameters, inputs), inputs.get("teacher")
        data, shapes = TokenData(inputs["data"]), Shapes.of(start.config)
        data.require_fit(start.tokenizer, shapes.vocabulary)
        seqlen = parameters.sequence_length(shapes.positions)
        check_objective(parameters, teacher)
        if teacher is not None:
            _check_teacher(parameters, teacher, data, shapes, seqlen)
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
    def weights(self) -> Weights:
        """The terms of the objective."""
        hidden = self.parameters.hidden_weight if self.teacher is not None else 0.0
        return replace(super().weights, z_loss=self.parameters.z_loss, hidden=hidden)

    def micro_batch(self, world: int) -> int:
        """Sequences a rank takes at once: MICRO_BATCH, or about 8192 tokens.

        Raises:
            InputError: the ranks do not divide BATCH, or MICRO_BATCH not a rank's part of it.
        """
        share = self.parameters.share(world, "processes")
        return self.parameters.sequences_at_once(share, self.budget.seqlen)


def _check_teacher(
    parameters: TrainingParameters, teacher: Path, data: TokenData, shapes: Shapes, seqlen: int
) -> None:
    teacher_shapes = Shapes.of(read_config(teacher))
    data.require_fit(teacher, teacher_shapes.vocabulary)
    check_distillation(parameters, teacher_shapes, shapes, seqlen)


def check_distillation(
    parameters: TrainingParameters, teacher_shapes: Shapes, shapes: Shapes, seqlen: int
) -> None:
    """Refuse a teacher whose outputs cannot be compared with the model's.

    Raises:
        InputError: its sizes are others.
    """
    check_positions(teacher_shapes, seqlen)
    if parameters.hidden_weight and teacher_shapes.hidden != shapes.hidden:
        raise InputError(
            f"HIDDEN_WEIGHT compares hidden states and TEACHER's are {teacher_shapes.hidden} "
            f"wide, the model's {shapes.hidden}; leave it out."
        )
