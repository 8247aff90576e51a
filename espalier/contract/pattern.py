"""Sparsity patterns: unstructured, and N:M, where N of every M consecutive inputs are zeroed."""

import re
from dataclasses import dataclass

from espalier.errors import InputError

SPARSE_TENSOR_CORE_GROUPS = (2, 4)
"""Widths of the groups that hardware reads (1:2 and 2:4): no partial group may remain there."""


@dataclass(frozen=True)
class Pattern:
    """`unstructured` (zeroed = group = 0) or N:M (zeroed = N, group = M)."""

    zeroed: int = 0
    group: int = 0

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """Read `unstructured` or `N:M` with 0 < N < M.

        Raises:
            InputError: anything else.
        """
        if text == "unstructured":
            return cls()
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if not match:
            raise InputError(
                f"PATTERN={text} is not a pattern; give unstructured or N:M, for example 2:4."
            )
        zeroed, group = int(match[1]), int(match[2])
        if not 0 < zeroed < group:
            raise InputError(
                f"PATTERN={text} is impossible: N of every M inputs are zeroed, so 0 < N < M."
            )
        return cls(zeroed, group)

    @property
    def structured(self) -> bool:
        return self.group > 0

    @property
    def sparsity(self) -> float:
        """The fraction an N:M pattern zeroes."""
        return self.zeroed / self.group

    def check_width(self, name: str, width: int) -> None:
        """Refuse a matrix `name` whose input `width` the pattern cannot cover.

        2:4 and 1:2 are read by sparse tensor cores and must divide the width. Other patterns may
        leave one last partial group, of which N are zeroed as in whole groups, where it holds N.

        Raises:
            InputError: the width does not fit.
        """
        tail = width % self.group if self.structured else 0
        if tail and (self.group in SPARSE_TENSOR_CORE_GROUPS or tail < self.zeroed):
            raise InputError(
                f"PATTERN={self} does not fit {name}: its {width} inputs are not divisible by "
                f"{self.group}; choose a pattern that divides them or PATTERN=unstructured."
            )

    def __str__(self) -> str:
        return f"{self.zeroed}:{self.group}" if self.structured else "unstructured"
