"""Which weights stay zero in training. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from espalier.contract.pruned import Masked, Padded, Pruned
from espalier.models.padding import Padding, paddings


@dataclass(frozen=True)
class Zeros:
    """What of a pruned checkpoint stays exactly zero.

    Attributes:
        padded: whose padding it is; None: what a pattern zeroed, which is wherever the matrices of
            the checkpoint's layers are zero.
    """

    padded: Padded | None = None

    @classmethod
    def of(cls, pruned: Pruned | None, policy: Literal["preserve", "densify"]) -> "Zeros | None":
        """What stays zero of a checkpoint of this kind; None: every weight is trained.

        Padding stays under any policy: it is no weights, and true widths would not be true.
        """
        match pruned:
            case Masked() if policy == "preserve":
                return cls()
            case Padded():
                return cls(pruned)
        return None

    def padding(self, shapes: Mapping[str, tuple[int, ...]], head_dim: int) -> dict[str, Padding]:
        """The padding of tensors of these full names and shapes, by name."""
        if self.padded is None:
            return {}
        return {found.name: found for found in paddings(self.padded, shapes, head_dim)}
