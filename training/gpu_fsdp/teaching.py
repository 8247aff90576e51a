"""A run that a teacher may take part in, whatever of the model is trained."""

from dataclasses import dataclass
from pathlib import Path

from espalier.errors import InputError
from espalier.models.flops import forward_flops
from espalier.models.shapes import Shapes, read_config
from training.gpu_fsdp.loss import Weights
from training.protocol.parameters import TaughtParameters
from training.protocol.run import Run


@dataclass(frozen=True)
class TaughtRun(Run):
    """A run, and whom it is taught by."""

    teacher: Path | None = None

    @property
    def teacher_shapes(self) -> Shapes | None:
        """The teacher's, where there is one."""
        return None if self.teacher is None else Shapes.of(read_config(self.teacher))

    @property
    def flops_per_token(self) -> float:
        teacher, seqlen = self.teacher_shapes, self.budget.seqlen
        return super().flops_per_token + (forward_flops(teacher, seqlen) if teacher else 0.0)

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
        parameters, distilled = self.parameters, self.teacher is not None
        assert isinstance(parameters, TaughtParameters)  # noqa: S101
        return Weights(
            cross_entropy=parameters.cross_entropy_weight(distilled),
            kl=parameters.kl_weight if distilled else 0.0,
            temperature=parameters.temperature,
        )


def check_positions(teacher: Shapes, seqlen: int) -> None:
    """Refuse sequences that a teacher cannot read whole.

    Raises:
        InputError: it has fewer positions.
    """
    if seqlen > teacher.positions:
        raise InputError(
            f"SEQLEN={seqlen} is longer than TEACHER's {teacher.positions} positions; give "
            f"SEQLEN={teacher.positions} or less."
        )


def check_objective(parameters: TaughtParameters, teacher: Path | None) -> None:
    """Refuse an objective of no terms.

    Raises:
        InputError: there is nothing to train on.
    """
    if teacher is None and parameters.ce_weight == 0:
        raise InputError("CE_WEIGHT=0 leaves nothing to train on; give a TEACHER.")
