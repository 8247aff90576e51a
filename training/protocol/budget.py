"""From a number of tokens to steps. Needs no torch."""

import math
from dataclasses import dataclass
from fractions import Fraction

from espalier.errors import InputError


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

        TOKENS that the data hold are trained: where the nearest number of steps is more than they
        allow, the largest that they do is taken.

        Raises:
            InputError: the data hold fewer tokens than that, or not even one step's.
        """
        passes = Fraction(str(epochs or 1))  # as it was written: 0.29 of 100 are 29
        windows = max(0, available - 1) // seqlen
        if not windows:
            raise InputError(_too_short(tokens, passes, batch, seqlen, available))
        step, most = batch * seqlen, int(passes * windows // batch)
        steps = most if tokens is None else max(1, round(tokens / step))
        if most and _held(tokens, passes, seqlen, available):
            steps = min(steps, most)
        if steps > most or not steps:
            raise InputError(_too_few(tokens, passes, batch, seqlen, available))
        return cls(steps * step if tokens is None else tokens, steps, batch, seqlen, windows)

    @property
    def step_tokens(self) -> int:
        return self.batch * self.seqlen

    @property
    def tokens(self) -> int:
        """What is really trained on."""
        return self.steps * self.step_tokens

    def tokens_after(self, steps: int) -> int:
        """What the first `steps` train on."""
        return steps * self.step_tokens

    @property
    def epochs(self) -> float:
        return self.steps * self.batch / self.windows

    @property
    def rounded_down(self) -> bool:
        """Whether the nearest number of steps would have been larger."""
        return self.steps < round(self.nominal / self.step_tokens)

    def __str__(self) -> str:
        exact = f"{self.steps:,} steps of {self.step_tokens:,} tokens: {self.tokens:,} tokens"
        if self.tokens == self.nominal:
            return exact
        difference = self.tokens / self.nominal - 1
        why = ", rounded down: the data hold no further step" if self.rounded_down else ""
        return f"{exact} for the {self.nominal:,} asked for ({difference:+.2%}{why})"


def _held(tokens: int | None, passes: Fraction, seqlen: int, available: int) -> bool:
    """Whether the passes have so many tokens.

    An export's rows do not say how many followed the last whole one: fewer than a row.
    """
    return tokens is None or tokens <= passes * ((available - 1) // seqlen + 1) * seqlen


def _too_short(
    tokens: int | None, passes: Fraction, batch: int, seqlen: int, available: int
) -> str:
    """What is said of data without one whole sequence, which has a target after its last token."""
    what = f"the data's {available:,} training tokens are no sequence of SEQLEN={seqlen}"
    needed = math.ceil(batch / passes)  # sequences that a step takes
    shorter = (available - 1) // needed
    if shorter < 2:
        return f"{what}; give more data."
    most = int(passes * ((available - 1) // shorter)) * shorter
    fewer = f" and TOKENS={most} or less" if tokens and tokens > most else ""
    return f"{what}; give SEQLEN={shorter} or less{fewer}, or more data."


def _too_few(tokens: int | None, passes: Fraction, batch: int, seqlen: int, available: int) -> str:
    """What is said where the steps need more passes than are allowed; each way out is enough."""
    windows = (available - 1) // seqlen
    allowed = int(passes * windows)
    steps = 1 if tokens is None else max(1, round(tokens / (batch * seqlen)))
    hundredths = -(-100 * steps * batch // windows)
    ways = [f"EPOCHS={hundredths / 100:.2f} or more"]
    if allowed >= batch:
        ways.append(f"TOKENS={allowed * seqlen} or less")
    elif allowed and _held(tokens, passes, seqlen, available):
        ways.append(f"BATCH={allowed} or less")
    what = f"{steps:,} steps of {batch * seqlen:,} tokens"
    if tokens is None or steps == 1:
        what = f"a step of BATCH={batch} sequences of SEQLEN={seqlen}"
    asked = f"TOKENS={tokens} are {what}" if tokens else f"there is to be {what}"
    return (
        f"{asked}, {hundredths / 100:.2f} epochs of the {available:,} training tokens that there "
        f"are, and {float(passes):g} are allowed; give {', or '.join(ways)}, or more data."
    )
