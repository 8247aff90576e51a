"""What FLAP gathers of a matrix's inputs in one pass (An et al. 2023, arXiv 2312.11983, sec. 4).

Shapes: B samples of a batch, T tokens, C features.
"""

import torch
from torch import Tensor

from espalier.errors import InputError
from espalier.models.finite import overflow
from espalier.pruning.layers.taps import require_fed

MEAN, RUNNING, EXACT, SQUARES = "mean", "running", "exact", "squares"
"""What `values` holds of each feature."""


class InputStatistics:
    """Mean, fluctuation and squared norm of each input feature, sample by sample.

    With x_k [T, C] the k-th sample's inputs and m_k the mean of the means of the first k samples:

        running   F_1 = 0,  F_k = F_(k-1) (k-2)/(k-1) + sum_t (x_kt - m_k)^2 / k
        exact     the variance of the feature over all tokens of all samples
        squares   s_k = s_(k-1) (k-1)/k + sum_t x_kt^2 / k   (Wanda's)

    `running` is the published code's fluctuation. It is meant as Welford's variance and is not
    quite that: both factors of the square have the mean that the sample has already moved. The two
    meet as samples become many.

    A sample is summed up in float32 and the running figures are float64. Samples are taken in one
    by one, so that the size of a batch changes nothing.
    """

    def __init__(self, features: int, device: str) -> None:
        self._mean, self._running, self._deviations, self._squares = (
            torch.zeros(features, dtype=torch.float64, device=device) for _ in range(4)
        )
        self._samples = self._tokens = 0

    def add(self, inputs: Tensor) -> None:
        """Take in a batch of inputs [B, T, C]."""
        for sample in inputs:
            self._add(sample.float())

    def _add(self, sample: Tensor) -> None:
        """Take in one sample [T, C]."""
        tokens = len(sample)
        self._samples += 1
        self._tokens += tokens
        count, before = self._samples, self._samples - 1
        own = sample.mean(dim=0)  # [C]
        around_own = (sample - own).square().sum(dim=0).double()
        step = own.double() - self._mean
        # sum_t (x_t - m)^2 = sum_t (x_t - own)^2 + T (own - m)^2, of any m; own - m_k is what
        # before/count leaves of the step from m_(k-1).
        self._mean += step / count
        if before:
            moved = around_own + tokens * (step * before / count).square()
            self._running = self._running * (before - 1) / before + moved / count
        self._deviations += around_own + tokens * step.square() * before / count
        self._squares = self._squares * before / count + sample.square().sum(dim=0).double() / count

    def values(self) -> dict[str, Tensor]:
        """Each figure, float32 [C] on the host.

        Raises:
            InputError: fewer than two samples have passed, or what passed overflows.
        """
        require_fed(self._samples, "the inputs that FLAP measures")
        if self._samples == 1:
            raise InputError(
                "one sample does not fluctuate: FLAP compares samples; give SAMPLES=2 or more, of "
                "a calibration that has as many."
            )
        exact = self._deviations / (self._tokens - 1)
        figures = {
            MEAN: self._mean,
            RUNNING: self._running,
            EXACT: exact,
            SQUARES: self._squares,
        }
        found = {name: figure.float().cpu() for name, figure in figures.items()}
        if not all(bool(torch.isfinite(figure).all()) for figure in found.values()):
            raise InputError(overflow("squares of activations", torch.float32))
        return found
