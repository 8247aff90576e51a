"""How much the loss would change without a part of a weight (Ma et al. 2023, §3.2).

    param_first   sum |w g|              eq. 3 for each weight, to the first order
    param_second  sum |w^2 h|            the second order alone
    param_mix     sum |w g - w^2 h / 2|  both
    vectorize     |sum w g|              the first order of the part as a whole
    l1, l2        sum |w|, sum w^2       without any data

g is the gradient of the mean loss and h the mean over samples of its square, which stands for the
Hessian's diagonal. Sums are over the rows or columns of a weight that a unit consists of.

Shapes: R rows, C columns of a matrix; N entries of an axis.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from espalier.models.axes import Axis
from methods.llm_pruner.coupled import Member

Taylor = Literal["param_first", "param_second", "param_mix", "vectorize"]
TAYLORS: tuple[Taylor, ...] = ("param_first", "param_second", "param_mix", "vectorize")
HALVES = ("first_half", "second_half")
"""param_first by the gradients of each half of the samples: how far they agree."""
MAGNITUDES = ("l1", "l2")


def key(axis: Axis, form: str) -> str:
    """What a vector of importances of an axis is called."""
    return f"{axis}.{form}"


class Salience:
    """Takes in a layer's gradients, and sums up what goes with each entry of its axes."""

    def __init__(self, members: Sequence[Member], samples: int) -> None:
        """`members`: what is coupled; `samples`: how many gradients will come."""
        self._members, self._samples = members, samples

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        names = {member.name for member in self._members}
        self._weights = {name: weights[name] for name in weights if name in names}
        self._there = [member for member in self._members if member.name in self._weights]
        zeros = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        self._sums, self._count = zeros, 0
        self._squares = {name: zero.clone() for name, zero in zeros.items()}
        self._first: dict[str, Tensor] = {}

    def add(self, gradients: Mapping[str, Tensor]) -> None:
        for name in self._weights:
            gradient = gradients[name]
            self._sums[name].add_(gradient)
            self._squares[name].addcmul_(gradient, gradient)
        self._count += 1
        if self._count == self._samples // 2:
            self._first = {name: total.clone() for name, total in self._sums.items()}

    def end(self) -> dict[str, Tensor]:
        """Vectors [N] by `key`: a form's importances of an axis, what is coupled added up."""
        return added_up(self._there, self._reduced)

    def _reduced(self, member: Member) -> dict[str, Tensor]:
        return absolute(self._parts(member))

    def _parts(self, member: Member) -> dict[str, Tensor]:
        """Importances of one member's parts, those of `vectorize` with their sign."""
        name, count, half = member.name, self._count, self._count // 2
        weight, total = self._weights[name], self._sums[name]
        first = weight * total / count
        second = weight.square() * (self._squares[name] / count)
        found = {
            "param_first": over(first.abs(), member.dimension),
            "param_second": over(second.abs(), member.dimension),
            "param_mix": over((first - second / 2).abs(), member.dimension),
            "vectorize": over(first, member.dimension),
        }
        if half:
            begun = weight * self._first[name]
            rest = weight * total - begun
            found["first_half"] = over((begun / half).abs(), member.dimension)
            found["second_half"] = over((rest / (count - half)).abs(), member.dimension)
        return found


class OuterSalience(Salience):
    """The same outside the layers, where a matrix comes in blocks of rows.

    What `end` gives is by the weight's name, and `vectorize` keeps its sign until all blocks are
    added up.
    """

    def end(self) -> dict[str, Tensor]:
        """Vectors [N] by `<name>:<form>`."""
        return {
            f"{member.name}:{form}": values
            for member in self._there
            for form, values in self._parts(member).items()
        }


def magnitudes(members: Sequence[Member], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """l1 and l2 of a layer's weights: vectors [N] by `key`.

    The published l2 is the sum of squares, without a root.
    """

    def reduced(member: Member) -> dict[str, Tensor]:
        return magnitudes_of(weights[member.name], member.dimension)

    return added_up([m for m in members if m.name in weights], reduced)


def magnitudes_of(weight: Tensor, dimension: int) -> dict[str, Tensor]:
    """l1 and l2 of one weight, along a dimension."""
    wide = weight.float()
    return {"l1": over(wide.abs(), dimension), "l2": over(wide.square(), dimension)}


def over(values: Tensor, dimension: int) -> Tensor:
    """[R, C] or [N] summed over all dimensions but one: [N]."""
    return values if values.ndim == 1 else values.sum(dim=1 - dimension)


def absolute(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the magnitude of what was summed with its sign."""
    return {form: values.abs() for form, values in found.items()}


def added_up(
    members: Sequence[Member], reduced: Callable[[Member], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """The sums over an axis's members."""
    found: dict[str, Tensor] = {}
    for member in members:
        for form, values in reduced(member).items():
            name = key(member.axis, form)
            found[name] = found[name] + values if name in found else values
    return found


def rank_correlation(left: Tensor, right: Tensor) -> float:
    """Spearman's, of two vectors [N] of more than one entry."""
    ranks = torch.stack([vector.double().argsort().argsort().double() for vector in (left, right)])
    return float(torch.corrcoef(ranks)[0, 1])
