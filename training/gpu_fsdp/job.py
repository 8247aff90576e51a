"""What one training run is given, as every rank reads it from the disk."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espalier.architectures.shapes import Shapes, read_config
from espalier.errors import InputError
from espalier.gates import check_parent
from espalier.token_data.reader import TokenData
from training.gpu_fsdp.budget import Budget
from training.gpu_fsdp.export import stored_dtype
from training.gpu_fsdp.loss import Weights
from training.gpu_fsdp.sparsity import pruning_of
from training.gpu_fsdp.spec import TrainingParameters


@dataclass(frozen=True)
class Job:
    """A checked run: everything that is refused is refused before a process is started.

    Attributes:
        config: the result's config.json.
        checkpoint: whose weights it starts from, or whose mask it takes; None: neither.
        tokenizer: the directory whose tokenizer the result gets.
        masked: pruned weights of `checkpoint` stay zero.
    """

    parameters: TrainingParameters
    data: Path
    config: Mapping[str, Any]
    checkpoint: Path | None
    tokenizer: Path
    teacher: Path | None
    masked: bool
    budget: Budget

    @classmethod
    def of(cls, parameters: TrainingParameters, inputs: Mapping[str, Path]) -> "Job":
        """Read a stage's inputs.

        Raises:
            InputError: they do not fit together, or not the parameters.
        """
        checkpoint, teacher = inputs.get("model"), inputs.get("teacher")
        config = _config(parameters, inputs)
        tokenizer = inputs.get("tokenizer") or checkpoint
        if tokenizer is None:
            raise InputError("a model from ARCH needs a tokenizer; give TOKENIZER=<model>.")
        data, shapes = TokenData(inputs["data"]), Shapes.of(config)
        if checkpoint is not None:
            check_parent(checkpoint)
        _check_data(data, tokenizer, shapes)
        seqlen = parameters.sequence_length(shapes.positions)
        if teacher is not None:
            _check_teacher(parameters, teacher, data, shapes, seqlen)
        elif parameters.ce_weight == 0:
            raise InputError("CE_WEIGHT=0 leaves nothing to train on; give a TEACHER.")
        available, _ = data.counts("train")
        return cls(
            parameters=parameters,
            data=inputs["data"],
            config=config,
            checkpoint=checkpoint,
            tokenizer=tokenizer,
            teacher=teacher,
            masked=_is_masked(parameters, checkpoint),
            budget=Budget.of(
                tokens=parameters.tokens,
                epochs=parameters.epochs,
                batch=parameters.batch,
                seqlen=seqlen,
                available=available,
            ),
        )

    @property
    def shapes(self) -> Shapes:
        return Shapes.of(self.config)

    @property
    def teacher_shapes(self) -> Shapes | None:
        """The teacher's, where there is one."""
        return None if self.teacher is None else Shapes.of(read_config(self.teacher))

    @property
    def precision(self) -> str:
        """PRECISION, or what the model is stored in."""
        stored = "float32" if self.config["torch_dtype"] == "float32" else "bf16"
        return self.parameters.precision or stored

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
        share, rest = divmod(self.parameters.batch, world)
        if rest:
            raise InputError(
                f"BATCH={self.parameters.batch} does not divide among {world} processes; give a "
                "multiple of them."
            )
        wanted = self.parameters.micro_batch
        if wanted is None:
            most = max(1, 8192 // self.budget.seqlen)
            return max(size for size in range(1, min(most, share) + 1) if share % size == 0)
        if share % wanted:
            raise InputError(
                f"MICRO_BATCH={wanted} does not divide the {share} sequences that each of {world} "
                "processes has a step."
            )
        return wanted


def _config(parameters: TrainingParameters, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """The result's config.json: ARCH's or the checkpoint's, with the dtype it is stored in."""
    architecture, checkpoint = inputs.get("architecture"), inputs.get("model")
    if architecture is not None:
        if checkpoint is not None or parameters.init != "random":
            raise InputError("ARCH is trained from scratch; leave CKPT out and give INIT=random.")
        try:
            config = json.loads(architecture.read_text())
        except (OSError, ValueError):
            raise InputError(
                f"{architecture} is no config.json; give a model or such a file."
            ) from None
    elif checkpoint is not None:
        config = read_config(checkpoint)
    else:
        raise InputError("nothing to train; give CKPT=<model>, or ARCH=<model or config.json>.")
    Shapes.of(config)
    return as_stored(config)


def as_stored(config: Mapping[str, Any]) -> dict[str, Any]:
    """The result's config.json, of its parent's."""
    rest = {key: value for key, value in config.items() if key != "dtype"}
    dtype = stored_dtype(config.get("dtype") or config.get("torch_dtype"))
    return {**rest, "torch_dtype": dtype, "use_cache": True}


def _is_masked(parameters: TrainingParameters, checkpoint: Path | None) -> bool:
    pruning = None if checkpoint is None else pruning_of(checkpoint)
    return parameters.policy == "preserve" and "pattern" in (pruning or {})


def _check_data(data: TokenData, tokenizer: Path, shapes: Shapes) -> None:
    data.require_tokenizer_of(tokenizer)
    if data.index.vocabulary > shapes.vocabulary:
        raise InputError(
            f"{data.directory} has tokens up to {data.index.vocabulary} and the model's vocabulary "
            f"ends at {shapes.vocabulary}; make the data with its own tokenizer."
        )


def _check_teacher(
    parameters: TrainingParameters, teacher: Path, data: TokenData, shapes: Shapes, seqlen: int
) -> None:
    check_parent(teacher)
    data.require_tokenizer_of(teacher)
    check_distillation(parameters, Shapes.of(read_config(teacher)), shapes, seqlen)


def check_distillation(
    parameters: TrainingParameters, its: Shapes, shapes: Shapes, seqlen: int
) -> None:
    """Refuse a teacher whose outputs cannot be compared with the model's.

    Raises:
        InputError: its sizes are others.
    """
    if its.vocabulary != shapes.vocabulary:
        raise InputError(
            f"TEACHER has {its.vocabulary} tokens and the model {shapes.vocabulary}; logits can "
            "only be compared where they are equal."
        )
    if seqlen > its.positions:
        raise InputError(f"SEQLEN={seqlen} is longer than TEACHER's {its.positions} positions.")
    if parameters.hidden_weight and its.hidden != shapes.hidden:
        raise InputError(
            f"HIDDEN_WEIGHT compares hidden states and TEACHER's are {its.hidden} wide, the "
            f"model's {shapes.hidden}; leave it out."
        )
