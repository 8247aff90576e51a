"""SliceGPT (Ashkboos et al. 2024, arXiv 2401.15024): the pure computation.

A decoder whose norms have no gains computes the same in any basis of its residual stream (§3.1:
RMSNorm(X Q) = RMSNorm(X) Q). In that of the principal components of the tokens' hidden states
(§3.3) the last directions carry least, and are cut off (§3.4). The norms' gains go into the
matrices that read the normed states first.

Shapes: D channels, d of them left, C inputs or outputs of another width, N tokens.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from espalier.pruning.gram import add_gram

DAMPING = 0.01
"""Of the mean of the diagonal, added to it."""
ELEMENTS_AT_ONCE = 1 << 23
"""Of a matrix, widened to float64 at a time: 64 MiB."""
NEARLY = 1e-9
"""Of a channel: how far (1 - SPARSITY) * D may fall short of a whole number by rounding alone."""


def kept_channels(width: int, sparsity: float, interval: int, *, reference: bool = False) -> int:
    """How many of `width` channels are left: a multiple of `interval`.

    The reference takes 63 for (1 - 0.9) * 640, which is 63.99999999999999 in floating point.
    """
    wanted = int((1 - sparsity) * width + (0 if reference else NEARLY))
    return wanted - wanted % interval


class SecondMoment:
    """Sum of x x^T over tokens, in float64.

    Attributes:
        matrix: float64 [D, D]; only on and above the diagonal panels it is kept up.
        tokens: how many were taken in.
    """

    def __init__(self, width: int, device: str) -> None:
        self.matrix = torch.zeros((width, width), dtype=torch.float64, device=device)
        self.tokens = 0

    def add(self, hidden: Tensor) -> None:
        """Take in hidden states [..., D]: neither centred nor divided by their number."""
        rows = hidden.reshape(-1, hidden.shape[-1]).double()  # [N, D]
        add_gram(self.matrix, rows)
        self.tokens += len(rows)

    @property
    def energy(self) -> float:
        """The sum of all squares."""
        return float(self.matrix.trace())


@dataclass(frozen=True)
class Basis:
    """An orthogonal basis of the residual stream.

    Attributes:
        vectors: float64 [D, D], a direction a column, the one that carries most first.
        energies: float64 [D], of each direction, the damping included.
        damping: what was added to each.
    """

    vectors: Tensor
    energies: Tensor
    damping: float

    def discarded(self, kept: int) -> float:
        """The share of the energy beyond the first `kept` directions."""
        own = self.energies - self.damping
        return float(own[kept:].sum() / own.sum())

    def record(self, kept: int) -> dict[str, Any]:
        """As a walk's record holds it."""
        return {
            "damping": self.damping,
            "discarded": self.discarded(kept),
            "eigenvalues": self.energies.tolist(),
        }


def principal_basis(moment: Tensor) -> Basis:
    """The eigenvectors of a second moment, each with its entry of largest magnitude positive.

    Args:
        moment: float64 [D, D], whose upper triangle is read.
    """
    damping = DAMPING * float(moment.diagonal().mean())
    damped = moment.clone()
    damped.diagonal().add_(damping)
    energies, vectors = torch.linalg.eigh(damped, UPLO="U")  # ascending
    vectors = vectors.flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))  # [1, D]
    return Basis(vectors * largest.sign(), energies.flip(0), damping)


def random_rotation(size: int, seed: int, site: int) -> Tensor:
    """An orthogonal matrix float64 [size, size], uniform over all of them (Mezzadri 2007).

    The same seed and site give the same one, whatever was drawn before.
    """
    generator = torch.Generator().manual_seed((seed << 16) | site)
    factor, upper = torch.linalg.qr(
        torch.randn((size, size), dtype=torch.float64, generator=generator)
    )
    return factor * upper.diagonal().sign()


def turned(vectors: Tensor, rotation: Tensor | None) -> Tensor:
    """Directions [D, d] within the space that they span: the function stays the same."""
    return vectors if rotation is None else vectors @ rotation.to(vectors.device)


def centred(embeddings: Tensor) -> Tensor:
    """Rows [..., D] less each one's mean, as LayerNorm would take it and RMSNorm does not."""
    wide = embeddings.double()
    return (wide - wide.mean(dim=-1, keepdim=True)).to(embeddings.dtype)


def rotate_inputs(weight: Tensor, vectors: Tensor, gain: Tensor | None = None) -> Tensor:
    """W diag(gain) Q of a matrix [C, D] that reads the stream: [C, d], computed in float64.

    Args:
        weight: of any dtype, which the result has.
        vectors: float64 Q [D, d].
        gain: of the norm before it, [D].
    """
    wide = vectors if gain is None else gain.to(vectors)[:, None] * vectors
    rows = max(1, ELEMENTS_AT_ONCE // weight.shape[1])
    parts = [(part.to(wide) @ wide).to(weight.dtype) for part in weight.split(rows)]
    return torch.cat(parts)


def rotate_outputs(weight: Tensor, vectors: Tensor) -> Tensor:
    """Q^T W of a matrix [D, C] that writes to the stream, or of its bias [D]: [d, C] or [d]."""
    if weight.dim() == 1:
        return (vectors.T @ weight.to(vectors)).to(weight.dtype)
    columns = max(1, ELEMENTS_AT_ONCE // weight.shape[0])
    parts = [(vectors.T @ part.to(vectors)).to(weight.dtype) for part in weight.split(columns, 1)]
    return torch.cat(parts, dim=1)


def shortcut(before: Tensor, after: Tensor, dtype: Any) -> Tensor:
    """From one basis [D, d] of the stream to another [D, e], as a linear layer's weight [e, d]."""
    return (after.T @ before).to(dtype)
