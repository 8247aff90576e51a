"""Sums of losses over tokens, computed a piece of the tokens at a time.

Shapes: N tokens, D hidden width, V vocabulary.

A teacher of the same tokenizer may have more or fewer rows than the student: padding beyond the ids
that texts have. What is compared is then what both have, the first min(V, V') logits.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as token_cross_entropy
from torch.nn.functional import kl_div, linear, log_softmax
from torch.utils.checkpoint import checkpoint

LOGITS = 1 << 27
"""Logits that are held at once: of Llama 3's vocabulary 1046 tokens', 0.5 GB."""
IGNORED = -100
"""A target that counts in no sum, as torch's cross-entropy has it."""


@dataclass(frozen=True)
class Weights:
    """What the terms of the objective count.

    Attributes:
        cross_entropy: of the data's next token.
        z_loss: of log² Z, which keeps logits from drifting (Chowdhery et al., 2022, section 5).
        kl: of KL(teacher || student) at `temperature`, times its square (Hinton et al., 2015).
        hidden: of the hidden states' mean square difference (Muralidharan et al., 2024, eq. 6).
    """

    cross_entropy: float = 1.0
    z_loss: float = 0.0
    kl: float = 0.0
    temperature: float = 1.0
    hidden: float = 0.0


@dataclass(frozen=True)
class Sums:
    """Sums over tokens, float32 scalars; `objective` is what is differentiated."""

    objective: Tensor
    cross_entropy: Tensor
    kl: Tensor


def summed_losses(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Weights,
    teacher: tuple[Tensor, Tensor] | None = None,
) -> Sums:
    """Sums over all tokens.

    Args:
        hidden: the final hidden states [N, D].
        head: the output matrix [V, D].
        targets: int64 [N].
        weights: of the terms.
        teacher: its final hidden states [N, D'] and output matrix [V', D'].
    """
    size = max(1, LOGITS // head.shape[0])
    parts = []
    for start in range(0, len(hidden), size):
        part = slice(start, start + size)
        taught = None if teacher is None else (teacher[0][part], teacher[1])
        arguments = (hidden[part], head, targets[part], weights, taught)
        if len(hidden) <= size or not torch.is_grad_enabled():
            parts.append(_piece(*arguments))
        else:
            parts.append(checkpoint(_piece, *arguments, use_reentrant=False))
    objective, cross_entropy, kl = (torch.stack(terms).sum() for terms in zip(*parts, strict=True))
    return Sums(objective, cross_entropy.detach(), kl.detach())


def _piece(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Weights,
    teacher: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    logits = linear(hidden, head).float()  # [n, V]
    cross_entropy = token_cross_entropy(logits, targets, reduction="sum")
    objective = weights.cross_entropy * cross_entropy
    if weights.z_loss:
        objective = objective + weights.z_loss * torch.logsumexp(logits, -1).square().sum()
    kl = torch.zeros_like(cross_entropy)
    if teacher is not None and weights.kl:
        states, rows = teacher[0], teacher[1][: head.shape[0]]
        kl = divergence(linear(states, rows).float(), logits[:, : len(rows)], weights.temperature)
        objective = objective + weights.kl * kl
    return objective, cross_entropy, kl


def divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Sum of KL(teacher || student) over tokens, of logits [N, V], times temperature squared.

    Both are distributions over these logits alone, whatever else a model has rows for.
    """
    expected = log_softmax(teacher / temperature, -1)
    given = log_softmax(student / temperature, -1)
    return kl_div(given, expected, reduction="sum", log_target=True) * temperature**2


def taught_layers(student: int, teacher: int) -> list[int]:
    """The teacher layer that each student layer is compared with: the last with the last."""
    return [round((layer + 1) * teacher / student) - 1 for layer in range(student)]
