"""From a utilisation to time and price. Needs no JAX."""

from typing import Any

from espalier.hardware.tpus import PRICED, Tpu
from espalier.models.flops import training_flops
from training.protocol.run import Run

FLOAT32_PASSES = 6
"""Products of bfloat16 that XLA makes one of float32 from, at precision `highest`."""


def estimated(run: Run, tokens: int | None, tpu: Tpu, mfu: float) -> dict[str, Any]:
    """Speed, and what `tokens` take; None where nobody said how many there are."""
    passes = 1 if run.precision == "bf16" else FLOAT32_PASSES
    flops = training_flops(run.shapes, run.budget.seqlen)
    speed = mfu * 1e12 * tpu.generation.bf16_tflops / passes * tpu.chips / flops
    hours = None if tokens is None else tokens / speed / 3600
    return {
        "mfu": mfu,
        "precision": run.precision,
        "flops_per_token": flops,
        "tokens_per_second": speed,
        "step_seconds": run.budget.step_tokens / speed,
        "tokens": tokens,
        "steps": None if tokens is None else run.budget.steps,
        "hours": hours,
        "chip_hours": None if hours is None else hours * tpu.chips,
        "dollars": None if hours is None else hours * tpu.dollars_per_hour,
        "priced": PRICED,
    }
