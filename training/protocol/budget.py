"""From a number of tokens to steps, and what they cost. Needs no torch."""

import math
from dataclasses import dataclass

from espalier.contract.ledger import FORWARD, TRAINING
from espalier.errors import InputError
from espalier.models.shapes import Shapes


@dataclass(frozen=True)
class Budget:
    """Whole steps of equal size.

    Attributes:
        nominal: tokens asked for.
        batch: sequences a step.
        seqlen: tokens a sequence, each of them a target once.
        windows: sequences that the training data hold; one pass over them is an epoch.
    """

    nominal: int
    steps: int
    batch: int
    seqlen: int
    windows: int

    @classmethod
    def of(
        cls, *, tokens: int | None, epochs: float | None, batch: int, seqlen: int, available: int
    ) -> "Budget":
        """The steps nearest to TOKENS, or all that EPOCHS passes over `available` tokens give.

        Raises:
            InputError: the data hold fewer tokens than that, or not even one step's.
        """
        windows = max(0, available - 1) // seqlen
        allowed = (epochs or 1) * windows
        step = batch * seqlen
        if tokens is None:
            if allowed < batch:
                raise InputError(
                    f"the data hold {windows:,} sequences of SEQLEN={seqlen} and a step takes "
                    f"BATCH={batch}; lower BATCH or SEQLEN, or give EPOCHS."
                )
            if math.isinf(allowed):
                raise InputError(f"EPOCHS={epochs} never end; give TOKENS too.")
            steps = int(allowed // batch)
            return cls(steps * step, steps, batch, seqlen, windows)
        steps = max(1, round(tokens / step))
        if steps * batch > allowed:
            passes = steps * batch / windows if windows else math.inf
            raise InputError(
                f"TOKENS={tokens} are {steps:,} steps of {step:,} tokens, {passes:.2f} epochs of "
                f"the {available:,} training tokens that there are; give EPOCHS={passes:.2f} or "
                "more, fewer TOKENS, or more data."
            )
        return cls(tokens, steps, batch, seqlen, windows)

    @property
    def step_tokens(self) -> int:
        return self.batch * self.seqlen

    @property
    def tokens(self) -> int:
        """What is really trained on."""
        return self.steps * self.step_tokens

    @property
    def epochs(self) -> float:
        return self.steps * self.batch / self.windows

    def __str__(self) -> str:
        exact = f"{self.steps:,} steps of {self.step_tokens:,} tokens: {self.tokens:,} tokens"
        if self.tokens == self.nominal:
            return exact
        difference = self.tokens / self.nominal - 1
        return f"{exact} for the {self.nominal:,} asked for ({difference:+.2%})"


def training_flops(shapes: Shapes, seqlen: int) -> float:
    """FLOPs a token of forward and backward: 6 a weight but for the embedding, and attention.

    Attention's products are counted as causal, half of all pairs (12 a pair and head dimension in
    Chowdhery et al., 2022, appendix B, which counts them all). Zeros count as weights.
    """
    return TRAINING * _products(shapes) + 3 * _attention(shapes, seqlen)


def run_flops(shapes: Shapes, teacher: Shapes | None, seqlen: int) -> float:
    """FLOPs a token of a run: the model's training, and its teacher's forward pass."""
    taught = forward_flops(teacher, seqlen) if teacher is not None else 0.0
    return training_flops(shapes, seqlen) + taught


def forward_flops(shapes: Shapes, seqlen: int) -> float:
    """FLOPs a token of a forward pass alone: a teacher's."""
    return FORWARD * _products(shapes) + _attention(shapes, seqlen)


def _products(shapes: Shapes) -> float:
    return float(shapes.layers * shapes.layer_parameters + shapes.vocabulary * shapes.hidden)


def _attention(shapes: Shapes, seqlen: int) -> float:
    return 4 * shapes.layers * shapes.heads * shapes.head_dim * seqlen / 2
