"""Shares of domains as users give them: what of it can be checked where there is no numpy."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal

from espalier.errors import InputError
from methods.sheared_llama.named import in_order

Rule = Literal["fixed", "doremi", "bandit"]

PUBLISHED: Mapping[str, float] = {
    "cc": 0.67,
    "github": 0.045,
    "book": 0.045,
    "stackexchange": 0.02,
    "wiki": 0.045,
    "arxiv": 0.025,
    "c4-rp": 0.15,
}
"""RedPajama's, which the published runs begin with."""
TOLERANCE = 1e-6
"""Shares that are given sum to 1 but for what decimals leave."""


def require_shares(shares: Mapping[str, float], domains: Iterable[str]) -> list[float]:
    """Shares in the order of `domains` that sum to 1 within 1e-12.

    Raises:
        InputError: one is missing, unknown, negative or NaN, or they do not sum to 1.
    """
    names = list(domains)
    found = in_order(shares, names, "SHARES")
    for name, share in zip(names, found, strict=True):
        if not 0 <= share <= 1:
            raise InputError(f"SHARES gives {name} {share:g}; each share lies between 0 and 1.")
    total = math.fsum(found)
    if abs(total - 1) > TOLERANCE:
        raise InputError(f"SHARES sum to {total:.6g}; give shares that sum to 1.")
    return [share / total for share in found]
