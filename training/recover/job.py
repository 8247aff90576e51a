"""What one recovery is given, checked before anything is computed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from espalier.errors import InputError
from espalier.models.flops import adapter_flops, forward_flops
from espalier.models.shapes import Shapes, read_config
from espalier.models.tokenizer import tokenizer_hash
from training.gpu_fsdp.teaching import TaughtRun, check_objective, check_positions
from training.protocol.order import Order
from training.protocol.run import Start
from training.recover.budget import ExampleBudget
from training.recover.examples import Data
from training.recover.reading import read_data
from training.recover.spec import RecoverParameters, adapter_parameters


@dataclass(frozen=True)
class RecoverRun(TaughtRun):
    """A run that trains adapters of a checkpoint on examples.

    Attributes:
        source: the checkpoint, whose weights stay what they are until the adapters are merged.
        examples: what is trained on and held out.
    """

    parameters: RecoverParameters
    budget: ExampleBudget
    source: Path = field(kw_only=True)
    examples: Data = field(kw_only=True)

    @classmethod
    def of(cls, parameters: RecoverParameters, inputs: Mapping[str, Path]) -> "RecoverRun":
        """Read a stage's inputs.

        Raises:
            InputError: they do not fit together, or not the parameters.
        """
        model, teacher = inputs["model"], inputs.get("teacher")
        check_objective(parameters, teacher)
        start = Start.of(parameters, inputs)
        shapes = Shapes.of(start.config)
        _check_rank(parameters.r, shapes)
        if teacher is not None:
            _check_tokenizer(teacher, model)
        examples = read_data(inputs["examples"], model, shapes, parameters)
        if teacher is not None:
            check_positions(Shapes.of(read_config(teacher)), examples.seqlen)
        return cls(
            parameters=parameters,
            data=inputs["examples"],
            **start._asdict(),
            teacher=teacher,
            source=model,
            examples=examples,
            budget=ExampleBudget.of_lengths(
                examples.lengths,
                tokens=parameters.tokens,
                epochs=parameters.epochs,
                batch=parameters.batch,
                seqlen=examples.seqlen,
                order=Order(len(examples.lengths), parameters.seed),
            ),
        )

    @property
    def masked(self) -> bool:
        """Whether what stays zero is wherever the weights are zero, and no padding."""
        return self.zeros is not None and self.zeros.padded is None

    @property
    def adapter_parameters(self) -> int:
        return adapter_parameters(self.shapes, self.parameters.r)

    @property
    def flops_per_token(self) -> float:
        """Of the frozen weights forward and back, of the adapters, and of the teacher."""
        lengths, teacher = self.examples.lengths, self.teacher_shapes
        seqlen = float((lengths**2).sum() / lengths.sum())  # that of the sequence of a token
        taught = 0.0 if teacher is None else forward_flops(teacher, seqlen)
        own = adapter_flops(
            self.shapes, seqlen, self.adapter_parameters, through_weights=self.masked
        )
        return own + taught

    @property
    def notices(self) -> list[str]:
        return [*super().notices, *self.examples.notices]

    @property
    def micro_batch(self) -> int:
        """Sequences at once: MICRO_BATCH, or about 8192 tokens."""
        return self.parameters.sequences_at_once(self.parameters.batch, self.budget.seqlen)


def _check_rank(rank: int, shapes: Shapes) -> None:
    """Refuse adapters that are larger than what they are added to."""
    name, (rows, columns) = min(shapes.matrices.items(), key=lambda found: min(found[1]))
    if rank > min(rows, columns):
        raise InputError(
            f"R={rank} is more than the rank that {name} of {rows} x {columns} can have; give "
            f"R={min(rows, columns)} or less."
        )


def _check_tokenizer(teacher: Path, model: Path) -> None:
    """Refuse a teacher that reads other ids."""
    found, own = tokenizer_hash(teacher), tokenizer_hash(model)
    if found != own:
        has = f"another tokenizer ({found[:12]})" if found else "no tokenizer"
        raise InputError(
            f"TEACHER={teacher} has {has} than the model ({(own or 'none')[:12]}), so that their "
            "logits are of other tokens; give a teacher of the model's own tokenizer."
        )
