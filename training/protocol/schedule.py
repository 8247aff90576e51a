"""The learning rate of every step."""

import math
from typing import Literal

Shape = Literal["cosine", "linear", "constant", "wsd"]
WARMUP_STEPS = 2000
"""A warm-up is a fraction of the steps, and no longer than this (the protocol's)."""
DECAY_PART = 0.2
"""Of a `wsd` (warm-up, stable, decay) schedule."""


def warmup_steps(steps: int, fraction: float) -> int:
    """How many of `steps` warm up."""
    return min(WARMUP_STEPS, round(fraction * steps))


def learning_rate(
    step: int, steps: int, *, peak: float, shape: Shape, warmup: float, final: float
) -> float:
    """The rate of `step` (from 0) of `steps`.

    Warm-up is quadratic, 1 - (1 - t/T)²; then the rate falls from `peak` to `final * peak`, which
    the last step has: by half a cosine, along a line, in the last fifth alone (wsd), or not at all.
    """
    rising = warmup_steps(steps, warmup)
    if step < rising:
        return peak * (1 - (1 - (step + 1) / rising) ** 2)
    progress = (step + 1 - rising) / max(1, steps - rising)
    if shape == "constant":
        return peak
    if shape == "wsd":
        progress = max(0.0, (progress - 1 + DECAY_PART) / DECAY_PART)
    share = (1 + math.cos(math.pi * progress)) / 2 if shape == "cosine" else 1 - progress
    return peak * (final + (1 - final) * share)
