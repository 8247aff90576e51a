"""What a training run starts from and how long it goes, whatever trains it. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from espalier.contract.manifest import pruning_of
from espalier.errors import InputError
from espalier.models.content import config_as_stored
from espalier.models.flops import training_flops
from espalier.models.found_zeros import WORTH_SAYING, FoundZeros
from espalier.models.shapes import DTYPE_BYTES, Shapes, config_file
from training.protocol.budget import Budget
from training.protocol.dropout import dropout_notice
from training.protocol.parameters import StepParameters
from training.protocol.sparsity import Zeros


class Start(NamedTuple):
    """Whose shape, weights and tokenizer.

    Attributes:
        config: the result's config.json.
        checkpoint: whose weights it starts from, or whose mask it takes; None: neither.
        tokenizer: the directory whose tokenizer the result gets.
        zeros: what of `checkpoint` stays zero; None: nothing.
        found: zeros of `checkpoint` that its manifest does not account for, where they were asked
            for; None: there was nothing to ask.
    """

    config: Mapping[str, Any]
    checkpoint: Path | None
    tokenizer: Path
    zeros: Zeros | None
    found: FoundZeros | None

    @classmethod
    def of(cls, parameters: StepParameters, inputs: Mapping[str, Path]) -> "Start":
        """Read a stage's inputs.

        Raises:
            InputError: they do not fit together, or not the parameters.
        """
        checkpoint = inputs.get("model")
        config = _config(parameters, inputs)
        tokenizer = inputs.get("tokenizer") or checkpoint
        if tokenizer is None:
            raise InputError("a model from ARCH needs a tokenizer; give TOKENIZER=<model>.")
        pruning = None if checkpoint is None else pruning_of(checkpoint)
        zeros, found = Zeros.of(pruning, parameters.policy), None
        if checkpoint and parameters.policy == "preserve" and not zeros:
            found = FoundZeros.of(checkpoint)
            zeros = Zeros() if found.pruned else None
        return cls(config, checkpoint, tokenizer, zeros, found)


@dataclass(frozen=True)
class Run:
    """A checked run: everything that is refused is refused before a process is started.

    Attributes are `Start`'s, and:
        data: the tokens, in the form that the trainer reads.
    """

    parameters: StepParameters
    data: Path
    config: Mapping[str, Any]
    checkpoint: Path | None
    tokenizer: Path
    zeros: Zeros | None
    found: FoundZeros | None
    budget: Budget

    @property
    def shapes(self) -> Shapes:
        return Shapes.of(self.config)

    @property
    def flops_per_token(self) -> float:
        """Of the model's training, and of whoever teaches it."""
        return training_flops(self.shapes, self.budget.seqlen)

    @property
    def precision(self) -> str:
        """PRECISION, or what the model is stored in."""
        stored = "float32" if self.config["torch_dtype"] == "float32" else "bf16"
        return self.parameters.precision or stored

    @property
    def notices(self) -> list[str]:
        """What is done otherwise than the words or the model ask, a line each."""
        found = [dropout_notice(self.config), self._zeros_notice()]
        if self.zeros and self.zeros.padded and self.parameters.policy == "densify":
            found.append("POLICY=densify trains every weight, and padding is none: it stays zero.")
        return [line for line in found if line]

    def _zeros_notice(self) -> str | None:
        """What is done with zeros that no manifest accounts for."""
        if self.found is None or self.found.share < WORTH_SAYING:
            return None
        what = f"{self.found}, and no manifest says why"
        if self.found.pruned:
            return f"{what}: POLICY=preserve keeps them; POLICY=densify trains every weight."
        few = "too few for a pruned model" + (", those aside" if self.found.empty else "")
        return f"{what}: {few}, so they are trained."


def as_stored(config: Mapping[str, Any]) -> dict[str, Any]:
    """The result's config.json, of its parent's; half precision is stored as bfloat16.

    Where it states no dtype it is float32, as transformers has it.
    """
    rest = {key: value for key, value in config.items() if key != "dtype"}
    stated = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    dtype = stated if stated in DTYPE_BYTES and stated != "float16" else "bfloat16"
    return {**rest, "torch_dtype": dtype, "use_cache": True}


def _config(parameters: StepParameters, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """ARCH's config.json or the checkpoint's, with the dtype that the result is stored in."""
    architecture, checkpoint = inputs.get("architecture"), inputs.get("model")
    if architecture is not None:
        if checkpoint is not None or not parameters.fresh:
            raise InputError("ARCH is trained from scratch; leave CKPT out and give INIT=random.")
        config = config_file(architecture)
    elif checkpoint is not None:
        config = config_as_stored(checkpoint)
    else:
        raise InputError("nothing to train; give CKPT=<model>, or ARCH=<model or config.json>.")
    Shapes.of(config)
    return as_stored(config)
