"""Muon's update, and that it goes downhill."""

import pytest
import torch

from training.gpu_fsdp.optimizers import Muon, orthogonal


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 4, 12), (1, 12, 4)])
def test_an_orthogonal_update_has_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_muon_goes_downhill() -> None:
    target = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(torch.zeros(6, 4))
    muon = Muon([weight], 0.1, weight_decay=0.0)
    for _ in range(60):
        weight.grad = weight.detach() - target
        muon.step()
    assert (weight - target).norm() < 0.3 * target.norm()
