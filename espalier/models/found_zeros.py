"""Zeros that lie in a checkpoint, whatever its manifest says: how many, and in which pattern.

A mask that something else made is known by its content alone. Read with numpy, since the image
that trains on TPUs has no torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from espalier.contract.manifest import MANIFEST, read_manifest
from espalier.contract.pattern import Pattern
from espalier.contract.pruned import Masked
from espalier.errors import InputError
from espalier.models.checkpoint.header import TensorEntry
from espalier.models.checkpoint.locate import locate

PRUNED_SHARE = 0.01
"""Below it zeros are accidents: roundings of tiny weights, a few dead neurons."""
WORTH_SAYING = 0.001
"""From it on zeros that are trained are said."""
GROUPS = (2, 4, 8, 16)
"""Widths of groups in which a pattern is looked for, the narrowest first."""
SLACK = 0.005
"""Zeros that are more than N:M by as much have another pattern; only 2:4 is taken all the same."""
BLOCK_ELEMENTS = 1 << 21
UNSTRUCTURED = Pattern()
_BITS: dict[str, tuple[Any, int]] = {
    "BF16": ("<u2", 0x7FFF), "F16": ("<u2", 0x7FFF), "F32": ("<u4", 0x7FFFFFFF),
    "F64": ("<u8", 0x7FFFFFFFFFFFFFFF),
}  # fmt: skip
"""Floats as integers, and all bits but the sign's: of a zero none of them is set."""


def is_masked(name: str, shape: Sequence[int]) -> bool:
    """Whether a pattern zeroes in a parameter of this Hugging Face name: in a layer's matrix."""
    return ".layers." in name and len(shape) == 2


@dataclass(frozen=True)
class FoundZeros:
    """Zeros among the entries of a checkpoint's layers' matrices.

    Attributes:
        share: of all entries.
        share_within: of the entries of matrices that are not zero throughout, as those of layers
            that were added to be trained are.
        empty: the names of matrices that are zero throughout.
        pattern: N:M where every group of every matrix has N zeros; else unstructured.
    """

    share: float
    share_within: float = 0.0
    empty: tuple[str, ...] = ()
    pattern: Pattern = UNSTRUCTURED

    @classmethod
    def of(cls, checkpoint: Path) -> "FoundZeros":
        """Count them; where a manifest says that there are hardly any, nothing is read.

        Raises:
            InputError: the files cannot be read.
        """
        if (checkpoint / MANIFEST).is_file():
            counted = read_manifest(checkpoint).checks.get("sparsity")
            if isinstance(counted, float) and counted < WORTH_SAYING:
                return cls(counted)
        return cls._counted(checkpoint)

    @classmethod
    def _counted(cls, checkpoint: Path) -> "FoundZeros":
        zeros, total, empty, empty_entries = 0, 0, [], 0
        least = dict.fromkeys(GROUPS, max(GROUPS))
        for name, entry in _matrices(checkpoint):
            here = 0
            for block in _zero_blocks(entry):
                here += int(np.count_nonzero(block))
                for group in [group for group, count in least.items() if count]:
                    least[group] = min(least[group], _least_zeros(block, group))
            size = entry.shape[0] * entry.shape[1]
            zeros, total = zeros + here, total + size
            if here == size:
                empty.append(name)
                empty_entries += size
        share = zeros / max(1, total)
        within = (zeros - empty_entries) / max(1, total - empty_entries)
        return cls(share, within, tuple(empty), _pattern(least, share))

    @property
    def pruned(self) -> bool:
        """Whether they are so many that something has pruned the model."""
        return self.share_within >= PRUNED_SHARE

    def masked(self) -> Masked:
        """The account of them, as a manifest has it."""
        return Masked(pattern=str(self.pattern), target=self.share, achieved=self.share)

    def __str__(self) -> str:
        where = f", {self.pattern} in every group" if self.pattern.structured else ""
        whole = f", {len(self.empty)} matrices throughout" if self.empty else ""
        return f"{self.share:.2%} of the layers' matrices are zero{where}{whole}"


def found_masked(checkpoint: Path, pattern: Pattern) -> Masked:
    """The account of a mask that a checkpoint is said to have.

    Raises:
        InputError: a group has fewer zeros than the pattern, or there are too few for any.
    """
    found = FoundZeros._counted(checkpoint)
    if pattern.structured:
        for name, entry in _matrices(checkpoint):
            pattern.check_width(name, entry.shape[1])
            if any(_least_zeros(b, pattern.group) < pattern.zeroed for b in _zero_blocks(entry)):
                instead = f"give PATTERN={found.pattern}" if found.pruned else "leave PATTERN out"
                raise InputError(
                    f"{name} has groups of {pattern.group} inputs with fewer than {pattern.zeroed} "
                    f"zeros, so PATTERN={pattern} does not hold; {instead}: {found}."
                )
    elif not found.pruned:
        raise InputError(f"{found}, too few for a pruned model; leave PATTERN out.")
    return Masked(pattern=str(pattern), target=found.share, achieved=found.share)


def _matrices(checkpoint: Path) -> Iterator[tuple[str, TensorEntry]]:
    for name, entry in locate(checkpoint).items():
        if is_masked(name, entry.shape) and entry.dtype in _BITS and entry.nbytes:
            yield name, entry


def _zero_blocks(entry: TensorEntry) -> Iterator[npt.NDArray[np.bool_]]:
    """Where a matrix is zero, of either sign, bool [rows, inputs], a block of rows at a time."""
    kind, magnitude = _BITS[entry.dtype]
    whole = np.memmap(entry.file, kind, "r", entry.offset, entry.shape)
    rows = max(1, BLOCK_ELEMENTS // entry.shape[1])
    for start in range(0, entry.shape[0], rows):
        yield np.asarray((whole[start : start + rows] & magnitude) == 0)


def _least_zeros(zero: npt.NDArray[np.bool_], group: int) -> int:
    """The fewest zeros in any whole group of inputs; the group's width where there is none."""
    columns = zero.shape[1] - zero.shape[1] % group
    if not columns:
        return group
    counts = zero[:, :columns].reshape(len(zero), -1, group).sum(axis=-1, dtype=np.uint8)
    return int(counts.min())


def _pattern(least: dict[int, int], share: float) -> Pattern:
    """The densest pattern that all groups have, of the narrowest groups."""
    if not least or not 0 < share < 1:
        return UNSTRUCTURED
    group = max(GROUPS, key=lambda width: (least[width] / width, -width))
    found = Pattern(min(least[group], group - 1), group)
    exact = share - found.sparsity <= SLACK or (found.zeroed, group) == (2, 4)
    return found if found.zeroed and exact else UNSTRUCTURED
