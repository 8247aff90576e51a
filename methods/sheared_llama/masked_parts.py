"""A norm and a linear layer with masks, whose backward passes keep no more than without.

Autograd would keep both the masked and the unmasked input of a matrix, and the squares of a norm's;
here what a product of two factors gives is computed again.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional


class MaskedNorm(nn.Module):  # type: ignore[misc]
    """A stock root mean square norm that may be given masks of its channels.

    Attributes:
        weight: the stock norm's gains, [D].
        masks: [D], None: none.
    """

    masks: Tensor | None = None

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = stock.weight, stock.variance_epsilon

    def forward(self, states: Tensor) -> Tensor:
        """Hidden states [B, T, D], not yet masked, to masked and normalized ones.

        Of masks z: z^2 gain r / sqrt(sum(z^2 r^2) / count(z > 0) + eps), which is the masked gain
        times the norm of z r over the channels that are there.
        """
        wide, gains = states.to(torch.promote_types(states.dtype, torch.float32)), self.weight
        if self.masks is None:
            variance = wide.square().mean(-1, keepdim=True)
        else:
            squares = self.masks.to(wide.dtype).square()
            gains = (gains.to(wide.dtype) * squares).to(gains.dtype)
            kept = squares.detach().count_nonzero().clamp(min=1)
            variance = _WeightedSquares.apply(wide, squares / kept)
        return gains * (wide * (variance + self.variance_epsilon).rsqrt()).to(states.dtype)


class MaskedLinear(nn.Module):  # type: ignore[misc]
    """A linear layer that may be given masks of its inputs, and one of all that it gives.

    Attributes:
        weight: the stock layer's, [R, C].
        bias: the stock layer's, [R] or None.
        masks: of U inputs, or groups of C / U inputs side by side, [U]; None: none.
        whole: of the layer, a number.
    """

    masks: Tensor | None = None
    whole: Tensor | None = None

    def __init__(self, stock: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = stock.in_features, stock.out_features
        self.weight, self.bias = stock.weight, stock.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs [B, T, C] to [B, T, R]."""
        if self.masks is None:
            return functional.linear(inputs, self.weight, self.bias)
        units = (self.masks * self.whole).repeat_interleave(self.in_features // len(self.masks))
        product = _MaskedProduct.apply(inputs, units.to(inputs.dtype), self.weight)
        if self.bias is None:
            return product
        return product + (self.bias * self.whole).to(product.dtype)


class _WeightedSquares(Function):  # type: ignore[misc]
    """sum_c w_c x_c^2 of x [B, T, C] and w [C]: [B, T, 1]; autocast would round it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        with torch.autocast(x.device.type, enabled=False):
            return (x.square() @ w)[..., None]

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        of_x, of_w = ctx.needs_input_grad
        return (
            x * w * (2 * gradient) if of_x else None,
            (x.square() * gradient).flatten(0, -2).sum(0) if of_w else None,
        )


class _MaskedProduct(Function):  # type: ignore[misc]
    """(z * x) W' of x [B, T, C], z [C] and W [R, C]; keeps x alone, of its size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, z: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, z, weight)
        return functional.linear(x * z, weight)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """In the dtype of what was given, which is autocast's where that is on."""
        x, z, weight = ctx.saved_tensors
        of_x, of_z, of_weight = ctx.needs_input_grad
        masked = (gradient @ weight.to(gradient.dtype)).to(x.dtype) if of_x or of_z else None
        rows = (x * z).to(gradient.dtype).flatten(0, -2) if of_weight else None
        return (
            masked * z if of_x else None,
            (masked * x).flatten(0, -2).sum(0) if of_z else None,
            (gradient.flatten(0, -2).T @ rows).to(weight.dtype) if of_weight else None,
        )
