"""Seconds of one computation at its best; needs neither torch nor JAX."""

import time
from collections.abc import Callable


def best_seconds(compute: Callable[[], object], repeats: int = 2) -> float:
    """Of so many runs of what waits for its own result, the fastest."""
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        compute()
        best = min(best, time.perf_counter() - began)
    return best
