"""What one training run by MaxText is given, as every process reads it from the disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espalier.data.tokens.fitting import check_fit
from espalier.errors import InputError
from espalier.models.shapes import Shapes
from espalier.models.tokenizer import check_tokenizer
from training.maxtext_model.shape import model_keys
from training.protocol.budget import Budget
from training.protocol.run import Run, Start
from training.tpu_maxtext.data import Records
from training.tpu_maxtext.spec import TpuTrainingParameters

LANES = 128
"""Of a TPU's vector unit: the flash kernel wants heads and sequences that are multiples."""
BLOCK = 512
"""Tokens that the flash kernel takes at once; a longer sequence must be a multiple."""


@dataclass(frozen=True)
class MaxTextRun(Run):
    """A checked run."""

    parameters: TpuTrainingParameters
    records: Records

    @classmethod
    def of(cls, parameters: TpuTrainingParameters, inputs: Mapping[str, Path]) -> "MaxTextRun":
        """Read a stage's inputs.

        Raises:
            InputError: they do not fit together, or not the parameters.
        """
        start, records = Start.of(parameters, inputs), Records.of(inputs["data"])
        shapes = Shapes.of(start.config)
        model_keys(start.config)
        _check_data(records, start.tokenizer, shapes)
        seqlen = parameters.sequence_length(shapes.positions)
        if seqlen != records.seqlen:
            raise InputError(
                f"{records.directory} has rows of {records.seqlen} tokens and SEQLEN is {seqlen}; "
                f"export the data with SEQLEN={seqlen}."
            )
        budget = Budget.of(
            tokens=parameters.tokens,
            epochs=parameters.epochs,
            batch=parameters.batch,
            seqlen=seqlen,
            available=records.rows.get("train", 0) * seqlen + 1,
        )
        return cls(
            parameters=parameters,
            data=inputs["data"],
            **start._asdict(),
            budget=budget,
            records=records,
        )

    def micro_batch(self, devices: int) -> int:
        """Sequences a device takes at once.

        Raises:
            InputError: the devices do not divide BATCH, or MICRO_BATCH not a device's part of it.
        """
        share = self.parameters.share(devices, "devices")
        return self.parameters.sequences_at_once(share, self.budget.seqlen)

    def keys(self, device: str, devices: int) -> dict[str, Any]:
        """MaxText's keys of the run, beside the shape's."""
        parameters, micro = self.parameters, self.micro_batch(devices)
        exact, attention = self.precision == "float32", self._attention(device)
        return {
            **hardware(device),
            # Without them scores and softmax are bfloat16; the kernel has float32 by itself.
            "float32_qk_product": attention == "dot_product",
            "float32_logits": attention == "dot_product",
            "dtype": "float32" if exact else "bfloat16",
            "weight_dtype": "float32",
            "matmul_precision": "highest" if exact else "default",
            "attention": attention,
            "remat_policy": "full" if parameters.recompute else "minimal",
            "per_device_batch_size": micro,
            "gradient_accumulation_steps": parameters.batch // devices // micro,
            "max_target_length": self.budget.seqlen,
            "z_loss_multiplier": parameters.z_loss,
            "steps": self.budget.steps,
        }

    def _attention(self, device: str) -> str:
        seqlen = self.budget.seqlen
        whole = seqlen % BLOCK == 0 or (seqlen < BLOCK and seqlen % LANES == 0)
        fits = self.shapes.head_dim % LANES == 0 and whole
        return "flash" if device == "tpu" and fits else "dot_product"


def hardware(device: str) -> dict[str, Any]:
    """MaxText's keys of where it runs; layers are stacked, so that one is compiled for all."""
    return {"hardware": device, "scan_layers": True}


def _check_data(records: Records, tokenizer: Path, shapes: Shapes) -> None:
    check_tokenizer(tokenizer, shapes.vocabulary)
    vocabulary, rows = records.vocabulary, shapes.vocabulary
    check_fit(records.directory, records.tokenizer, vocabulary, tokenizer, rows)
