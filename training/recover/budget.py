"""A budget of sequences whose lengths differ. Needs no torch."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from espalier.errors import InputError
from training.protocol.budget import Budget
from training.protocol.order import Order


@dataclass(frozen=True)
class ExampleBudget(Budget):
    """Whole steps of equally many sequences.

    Attributes:
        ends: tokens trained on after each step.
    """

    ends: tuple[int, ...] = ()

    @classmethod
    def of_lengths(
        cls,
        lengths: npt.NDArray[np.int64],
        *,
        tokens: int | None,
        epochs: float,
        batch: int,
        seqlen: int,
        order: Order,
    ) -> "ExampleBudget":
        """The steps that come nearest to TOKENS, or all that EPOCHS passes give.

        Raises:
            InputError: the passes have not even one step, or fewer TOKENS.
        """
        passes = Fraction(str(epochs))  # as it was written: 0.29 of 100 are 29
        allowed = int(passes * len(lengths))
        most = allowed // batch
        if not most:
            fewer = f"BATCH={allowed} or less, or " if allowed else ""
            raise InputError(
                f"a step takes BATCH={batch} sequences, and EPOCHS={epochs:g} of the "
                f"{len(lengths):,} training sequences are {allowed:,}; give {fewer}"
                f"EPOCHS={-(-100 * batch // len(lengths)) / 100:.2f} or more."
            )
        numbers = order.windows_of(0, most * batch)
        ends = np.cumsum(lengths[numbers].reshape(most, batch).sum(1))
        steps = most
        if tokens is not None:
            if tokens > ends[-1]:
                raise InputError(
                    f"TOKENS={tokens} are more than the {ends[-1]:,} of EPOCHS={epochs:g} of the "
                    f"{len(lengths):,} training sequences; give TOKENS={ends[-1]} or less, or more "
                    "EPOCHS."
                )
            steps = int(np.abs(ends - tokens).argmin()) + 1
        nominal = int(ends[-1]) if tokens is None else tokens
        return cls(nominal, steps, batch, seqlen, len(lengths), tuple(ends[:steps].tolist()))

    @property
    def step_tokens(self) -> int:
        """Of a step on average."""
        return round(self.tokens / self.steps)

    @property
    def tokens(self) -> int:
        return self.ends[-1]

    def tokens_after(self, steps: int) -> int:
        return self.ends[steps - 1] if steps else 0

    def __str__(self) -> str:
        exact = f"{self.steps:,} steps of {self.batch:,} sequences: {self.tokens:,} tokens"
        if self.tokens == self.nominal:
            return exact
        difference = self.tokens / self.nominal - 1
        return f"{exact} for the {self.nominal:,} asked for ({difference:+.2%})"
