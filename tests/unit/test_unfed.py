"""No observer that was never given anything passes for a measurement."""

import pytest
import torch

from espalier.contract.pattern import Pattern
from espalier.errors import InputError
from methods.minitron.importance import OverSamples
from methods.shortgpt.algorithm import BlockInfluence
from methods.sparsegpt.algorithm import SparseGPT
from methods.wanda.algorithm import Wanda


@pytest.mark.parametrize("method", [Wanda, SparseGPT])
def test_statistics_of_masked_methods(method: type[Wanda] | type[SparseGPT]) -> None:
    pruner, weight = method(Pattern()), torch.randn(4, 8)
    before = weight.clone()
    with pytest.raises(InputError, match="no tokens reached the inputs of up"):
        pruner.prune({"up": weight}, pruner.statistic(8, "cpu"), 0.5)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("method", [Wanda, SparseGPT])
def test_statistics_that_overflow(method: type[Wanda] | type[SparseGPT]) -> None:
    """Activations whose squares float32 does not hold: bfloat16 has some."""
    pruner = method(Pattern())
    statistic = pruner.statistic(8, "cpu")
    statistic.add(torch.full((2, 3, 8), 1e30, dtype=torch.bfloat16))
    with pytest.raises(InputError, match="squares of activations became NaN or infinite"):
        pruner.prune({"up": torch.randn(4, 8)}, statistic, 0.5)


def test_block_influence() -> None:
    observer = BlockInfluence()
    observer.begin(torch.nn.Identity())
    with pytest.raises(InputError, match="no tokens reached the layer"):
        observer.end()


@pytest.mark.parametrize("how", ["mean", "l2", "var"])
def test_width_importance(how: str) -> None:
    with pytest.raises(InputError, match="no tokens reached what is scored"):
        OverSamples(how, 4).value  # type: ignore[arg-type]  # noqa: B018
