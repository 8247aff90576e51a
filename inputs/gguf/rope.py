"""How positions are scaled: GGUF states it by keys or by a table of factors, config.json by rules.

Llama 3's rule divides the frequencies of long waves by `factor`, leaves those of short ones and
blends between; GGUF keeps only the divisors. The rule is found again from them and has to give
the same table.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from espalier.errors import InputError
from inputs.gguf.file import GgufFile

TABLE = "rope_freqs.weight"
TOLERANCE = 1e-5
"""Relative; the table is float32."""
Floats = np.ndarray[Any, np.dtype[np.float64]]


def rope_scaling(file: GgufFile, theta: float, head_dim: int) -> dict[str, Any] | None:
    """config.json's `rope_scaling`; None where positions are not scaled.

    Raises:
        InputError: they are scaled in a way that no stock configuration states.
    """
    kind = file.own("rope.scaling.type")
    factor = file.real("rope.scaling.factor", file.real("rope.scale_linear", 1.0))
    if TABLE in file.tensors:
        table = file.rows(TABLE).astype(np.float64).reshape(-1)  # [head_dim / 2]
        if not np.all(table == 1):
            if kind not in (None, "none") and factor != 1:
                raise InputError(f"{file.path.name} scales its positions twice; convert it again.")
            return _rule_of(file, table, theta, head_dim)
    if kind == "none" or factor in (0.0, 1.0):
        return None
    if kind in (None, "linear"):
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        original = file.count("rope.scaling.original_context_length")
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
        }
    raise InputError(
        f"{file.path.name} scales its positions by {kind}, which is not supported; linear, yarn "
        "and Llama 3's are."
    )


def llama3_table(
    wavelengths: Floats, factor: float, low: float, high: float, original: float
) -> Floats:
    """Divisors of the frequencies of waves of these lengths, as Llama 3's rule has them."""
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    divisors: Floats = 1 / ((1 - smooth) / factor + smooth)
    return divisors


def _rule_of(file: GgufFile, table: Floats, theta: float, head_dim: int) -> dict[str, Any]:
    """The rule whose divisors the table holds."""
    waves = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)  # [head_dim / 2]
    if table.shape == waves.shape and np.all(table >= 1):
        factor = float(table.max())
        for low, high, original in _candidates(table, waves, factor):
            again = llama3_table(waves, factor, low, high, original)
            if np.allclose(again, table, rtol=TOLERANCE, atol=0):
                return {
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low,
                    "high_freq_factor": high,
                    "original_max_position_embeddings": int(original),
                }
    raise InputError(
        f"the table {TABLE} of {file.path.name} is not one of Llama 3's rule, and no stock "
        "configuration states it; it cannot be adopted."
    )


def _candidates(table: Floats, waves: Floats, factor: float) -> Iterator[tuple[float, float, int]]:
    """Low and high factor and original length: the published ones, then those that fit.

    A table shows only the ratios of the three, so that many rules give the same; the low factor is
    taken to be 1, as it always has been, unless the length is no whole number then.
    """
    yield 1.0, 4.0, 8192
    between = (table > 1 + TOLERANCE) & (table < factor * (1 - TOLERANCE))
    smooth = (1 / table - 1 / factor) / (1 - 1 / factor) if factor > 1 else table * 0
    kept, divided = waves[table <= 1 + TOLERANCE], waves[table > 1 + TOLERANCE]
    if between.sum() > 1:
        slope, start = np.polyfit(1 / waves[between], smooth[between], 1)
        if start < 0:
            yield from _whole(1 - 1 / start, -slope / start)
    elif between.sum() == 1:  # a line through one point: the high factor is free
        wave, blend = float(waves[between][0]), float(smooth[between][0])
        for high in (4.0, 3.0, 2.0, 1.5, 1.1, 8.0, 16.0):
            yield from _whole(high, wave * (blend * (high - 1) + 1))
    elif len(kept) and len(divided) and kept.max() < divided.min():
        for high in (4.0, 2.0, 1.1):
            yield from _whole(high, kept.max() * high + 1)
            yield from _whole(high, divided.min() - 1)


def _whole(high: float, original: float) -> Iterator[tuple[float, float, int]]:
    """Rules of the low factor 1, or near it, whose original length is a whole number."""
    length = max(round(original), 1)
    yield 1.0, round(high, 4), length
    yield length / original, high * length / original, length
