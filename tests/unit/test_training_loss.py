"""Losses against plain formulas, whole and in pieces."""

import pytest
import torch

from training.gpu_fsdp import loss
from training.gpu_fsdp.loss import Weights, divergence, summed_losses, taught_layers


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, 6, generator=generator)
    head = torch.randn(13, 6, generator=generator)
    return hidden, head, torch.randint(0, 13, (11,), generator=generator)


def test_cross_entropy_and_z_loss_are_the_formulas() -> None:
    hidden, head, targets = example()
    logits = hidden @ head.T
    logs = logits - logits.exp().sum(-1, keepdim=True).log()
    expected = -logs[torch.arange(11), targets].sum()
    z = logits.exp().sum(-1).log().square().sum()
    sums = summed_losses(hidden, head, targets, Weights(cross_entropy=0.5, z_loss=0.1))
    torch.testing.assert_close(sums.cross_entropy, expected)
    torch.testing.assert_close(sums.objective, 0.5 * expected + 0.1 * z)


def test_divergence_is_the_formula() -> None:
    hidden, head, _ = example()
    teacher, student = hidden @ head.T, hidden @ head.flip(0).T
    p, q = (teacher / 3).softmax(-1), (student / 3).softmax(-1)
    torch.testing.assert_close(
        divergence(teacher, student, 3.0), 9 * (p * (p / q).log()).sum(), rtol=1e-4, atol=1e-4
    )
    assert divergence(teacher, teacher, 2.0) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("rows", "taught_rows"), [(13, 13), (13, 17), (17, 13)])
def test_rows_that_only_one_has_are_cut(rows: int, taught_rows: int) -> None:
    """KL over the ids that both have, each side a distribution over these alone."""
    generator = torch.Generator().manual_seed(1)
    hidden, head = torch.randn(5, 6, generator=generator), torch.randn(rows, 6, generator=generator)
    states = torch.randn(5, 4, generator=generator)
    taught_head = torch.randn(taught_rows, 4, generator=generator)
    hidden.requires_grad_()
    head.requires_grad_()
    weights = Weights(cross_entropy=0.5, kl=0.7, temperature=2.0)
    targets = torch.tensor([0, 3, 12, 5, 7])
    sums = summed_losses(hidden, head, targets, weights, (states, taught_head))
    sums.objective.backward()
    common = min(rows, taught_rows)
    teacher, student = (states @ taught_head.T)[:, :common], (hidden @ head.T)[:, :common]
    p = (teacher / 2).exp() / (teacher / 2).exp().sum(-1, keepdim=True)
    q = (student / 2).exp() / (student / 2).exp().sum(-1, keepdim=True)
    kl = 4 * (p * (p / q).log()).sum()
    torch.testing.assert_close(sums.kl, kl.detach(), rtol=1e-4, atol=1e-5)
    logits = hidden @ head.T  # cross-entropy is over all that the student has
    crossed = -(logits.exp() / logits.exp().sum(-1, keepdim=True)).log()[range(5), targets].sum()
    torch.testing.assert_close(sums.cross_entropy, crossed.detach(), rtol=1e-4, atol=1e-4)
    expected = torch.autograd.grad(0.5 * crossed + 0.7 * kl, [hidden, head])
    for found, closed in zip((hidden.grad, head.grad), expected, strict=True):
        torch.testing.assert_close(found, closed, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("logits", [13, 40, 1 << 20])
def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch, logits: int) -> None:
    hidden, head, targets = example()
    weights = Weights(cross_entropy=0.3, z_loss=0.01, kl=0.7, temperature=2.0)
    gradients = []
    for size in (logits, 1 << 27):
        monkeypatch.setattr(loss, "LOGITS", size)
        mine, matrix = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        sums = summed_losses(mine, matrix, targets, weights, (hidden.flip(0), head))
        sums.objective.backward()
        gradients.append((sums.objective.detach(), mine.grad, matrix.grad))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_layers_are_taught_evenly() -> None:
    assert taught_layers(3, 5) == [1, 2, 4]
    assert taught_layers(4, 4) == [0, 1, 2, 3]
    assert taught_layers(16, 32)[-1] == 31
