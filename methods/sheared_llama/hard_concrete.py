"""The hard concrete distribution: a random number from 0 to 1 that is often exactly 0 or 1.

Louizos et al. 2018 (arXiv 1712.01312, §2.2), as Sheared-LLaMA uses it (arXiv 2310.06694, §2.1): a
sigmoid of logistic noise, stretched over [0, 1] and cut off. All functions work elementwise in
float32 or float64; units lie on the last axis.
"""

import math

import torch
from torch import Tensor

LOW, HIGH = -0.1, 1.1
"""The interval that the sigmoid is stretched to."""
TEMPERATURE = 2 / 3
EPSILON = 1e-6
"""What keeps uniform numbers and probabilities away from 0 and 1."""
BOUND = math.log(100)
"""log-alpha is kept within plus and minus this: no unit is ever lost for certain."""
SOFTNESS = 0.8
"""By which the reference implementation scales log-alpha where it draws nothing."""


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Numbers from EPSILON to 1 - EPSILON, float32, drawn on the generator's device."""
    drawn = torch.rand(shape, generator=generator, device=generator.device)
    return EPSILON + (1 - 2 * EPSILON) * drawn


def sample(log_alpha: Tensor, u: Tensor) -> Tensor:
    """Mask values from uniform numbers (Louizos et al., eqs. 10 and 11), differentiable.

    s = sigmoid((ln u - ln(1 - u) + log_alpha) / TEMPERATURE),  z = clip(s (HIGH - LOW) + LOW, 0, 1)
    """
    noise = u.log() - (-u).log1p()
    stretched = ((noise + log_alpha) / TEMPERATURE).sigmoid() * (HIGH - LOW) + LOW
    return stretched.clamp(0, 1)


def keep_probability(log_alpha: Tensor) -> Tensor:
    """P(z > 0) of each unit (Louizos et al., eq. 12), differentiable.

    The sigmoid must exceed x = -LOW / (HIGH - LOW): 1 - sigmoid(ln(x / (1 - x)) TEMPERATURE -
    log_alpha).
    """
    zero = math.log(-LOW / HIGH) * TEMPERATURE
    return 1 - (zero - log_alpha).sigmoid().clamp(EPSILON, 1 - EPSILON)


def expected_kept(log_alpha: Tensor) -> Tensor:
    """The number of units that each row is expected to keep, rounded to int64: [..., N] to [...].

    What is rounded is the number of units that go, halves to even.
    """
    probability = keep_probability(log_alpha.detach()).double()
    units = log_alpha.shape[-1]
    return units - (units - probability.sum(-1)).round().long()


def deterministic(log_alpha: Tensor, kept: Tensor | int) -> Tensor:
    """Mask values without noise: sigmoid(SOFTNESS log_alpha / TEMPERATURE), the lowest exactly 0.

    Gradients pass straight through (Bengio et al. 2013, arXiv 1308.3432): a unit that is 0 has the
    gradient of its soft value, so that training without noise can bring it back.

    Args:
        log_alpha: [..., N].
        kept: units that stay in each row, [...] or a number; of equals the last stay.
    """
    soft = (log_alpha / TEMPERATURE * SOFTNESS).sigmoid()
    gone = log_alpha.shape[-1] - torch.as_tensor(kept, device=log_alpha.device)
    ranks = log_alpha.detach().argsort(dim=-1, stable=True).argsort(dim=-1)
    return soft - (soft * (ranks < gone[..., None])).detach()
