"""Masks as parameters, the Lagrangian that holds them to a shape, and what the shape costs."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from espalier.models.flops import forward_flops
from espalier.models.shapes import Shapes
from methods.sheared_llama.expected import expected_shape
from methods.sheared_llama.hard_concrete import BOUND, deterministic, keep_probability, sample
from methods.sheared_llama.lagrangian import Lagrangian
from methods.sheared_llama.masks import Drawn, Masks
from methods.sheared_llama.target import SITES, Site, Sizes, Target

PARENT = Shapes(
    hidden=48, intermediate=40, layers=5, heads=12, kv_heads=6, head_dim=8, vocabulary=60,
    positions=32, tied=False, item_bytes=4,
)  # fmt: skip
TARGET = Target.of(PARENT, Sizes(layers=3, hidden=24, heads=8, ffn=15))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_first_masks_are_seeded_and_near_five() -> None:
    masks = Masks(PARENT, generator())
    assert {name: tuple(v.shape) for name, v in masks.named_parameters()} == {
        "hidden": (48,), "heads": (5, 6), "neurons": (5, 40), "layers": (5,),
    }  # fmt: skip
    for one, two in zip(masks.parameters(), Masks(PARENT, generator()).parameters(), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(masks.hidden, Masks(PARENT, generator(1)).hidden)
    large = Masks(replace(PARENT, intermediate=40_000), generator()).neurons
    assert float(large.detach().mean()) == pytest.approx(5, abs=1e-3)
    assert float(large.detach().std()) == pytest.approx(0.01, rel=0.02)


def test_draws_are_the_formulas_on_bounded_values() -> None:
    masks = Masks(PARENT, generator())
    drawn, stream = masks.drawn(generator(4)), generator(4)
    for site, values in drawn.items():
        log_alpha = getattr(masks, site)
        assert float(log_alpha.detach().max()) == pytest.approx(BOUND)
        u = 1e-6 + (1 - 2e-6) * torch.rand(log_alpha.shape, generator=stream)
        assert torch.equal(values, sample(log_alpha, u))
        assert torch.equal(dict(masks.expected().items())[site], keep_probability(log_alpha))
    again = masks.drawn(generator(4))
    assert all(torch.equal(getattr(again, site), getattr(drawn, site)) for site in SITES)
    assert not torch.equal(masks.drawn(generator(5)).neurons, drawn.neurons)


def test_what_was_pushed_past_the_bound_still_has_a_gradient() -> None:
    masks = Masks(PARENT, generator())  # all of them are
    (masks.drawn(None).hidden.sum() + masks.expected().heads.sum()).backward()
    assert (masks.hidden.grad > 0).all() and (masks.heads.grad > 0).all()


def test_without_noise_each_row_keeps_what_it_is_expected_to() -> None:
    masks = Masks(PARENT, generator())
    for values in masks.parameters():
        values.data = 3 * torch.randn(values.shape, generator=generator(9))
    drawn, expected = masks.drawn(None), masks.expected()
    for site, values in drawn.items():
        kept = getattr(expected, site).double().sum(-1)
        gone = (values.shape[-1] - kept).round()
        assert torch.equal((values == 0).sum(-1).double(), gone)
    assert drawn.neurons.requires_grad
    assert all(torch.equal(getattr(masks.final(), site), getattr(drawn, site)) for site in SITES)


def test_final_masks_are_exactly_the_target() -> None:
    masks = Masks(PARENT, generator())
    for values in masks.parameters():
        values.data = 9 * torch.randn(values.shape, generator=generator(9))
    final = masks.final(TARGET)
    for site, values in final.items():
        assert not values.requires_grad
        assert (values.count_nonzero(-1) == TARGET.kept[site]).all()
        assert float(values.max()) < 1
        bounded = getattr(masks, site).clamp(-BOUND, BOUND)
        assert torch.equal(values, deterministic(bounded, TARGET.kept[site]))


def rows(sparsity: dict[Site, list[float]]) -> dict[Site, Tensor]:
    return {site: torch.tensor(values) for site, values in sparsity.items()}


def test_penalty_in_closed_form() -> None:
    lagrangian = Lagrangian(TARGET, warmup=10)
    assert TARGET.sparsity == pytest.approx(
        {"hidden": 0.5, "heads": 1 / 3, "neurons": 0.625, "layers": 0.4}
    )
    sparsity: dict[Site, list[float]] = {
        "hidden": [0.1],
        "heads": [0.1, 0.2, 0.3, 0.4, 0.5],
        "neurons": [0.0, 0.1, 0.9, 0.2, 0.3],
        "layers": [0.25],
    }
    lagrangian.lambda1.data = torch.tensor([1.0, -2.0, 3.0, 0.5])
    lagrangian.lambda2.data = torch.tensor([4.0, 5.0, -6.0, 0.25])
    expected = 0.0
    for place, site in enumerate(SITES):
        one, two = lagrangian.lambda1.tolist()[place], lagrangian.lambda2.tolist()[place]
        gaps = [value - 0.3 * TARGET.sparsity[site] for value in sparsity[site]]
        expected += sum(one * gap + two * gap**2 for gap in gaps) / len(gaps)
    penalty = lagrangian.penalty(rows(sparsity), step=3)
    assert penalty.item() == pytest.approx(expected, rel=1e-5)
    assert Lagrangian(TARGET, 10).penalty(rows(sparsity), 3).item() == 0  # all begin at 0


def test_targets_rise_linearly_and_stay() -> None:
    lagrangian = Lagrangian(TARGET, warmup=4)
    found = [lagrangian.targets(step)["hidden"] for step in (0, 1, 2, 4, 9)]
    assert found == pytest.approx([0, 0.125, 0.25, 0.5, 0.5])
    assert Lagrangian(TARGET, warmup=0).targets(0) == TARGET.sparsity


@pytest.mark.parametrize(("sparsity", "sign"), [(0.1, -1), (0.9, 1)])
def test_multipliers_climb(sparsity: float, sign: int) -> None:
    """Too little sparsity makes lambda1 negative, so that more of it lowers the loss."""
    lagrangian = Lagrangian(TARGET, warmup=0)
    optimizer = torch.optim.SGD([{"params": lagrangian.parameters(), "lr": -1.0}])
    even: dict[Site, Tensor] = {site: torch.tensor([sparsity]) for site in SITES}
    lagrangian.penalty(even, 0).backward()
    optimizer.step()
    gaps = torch.tensor([sparsity - TARGET.sparsity[site] for site in SITES])
    assert torch.allclose(lagrangian.lambda1, gaps)
    assert torch.allclose(lagrangian.lambda2, gaps.square())
    assert (lagrangian.lambda1.sign() == sign).all()


def parameters_of(masks: Masks, lagrangian: nn.Module) -> Iterator[dict[str, object]]:
    yield {"params": list(masks.parameters()), "lr": 0.1}
    yield {"params": list(lagrangian.parameters()), "lr": -0.1}


@pytest.mark.parametrize("noisy", [True, False])
def test_every_row_comes_to_the_target_and_what_matters_stays(noisy: bool) -> None:
    """Each unit has a price, which grows with its place; layers differ tenfold in price."""
    masks, lagrangian = Masks(PARENT, generator()), Lagrangian(TARGET, warmup=100)
    groups = parameters_of(masks, lagrangian)
    optimizer = torch.optim.AdamW(list(groups), lr=0.1, betas=(0.9, 0.95), weight_decay=0)
    noise = generator(3) if noisy else None
    per_layer = torch.logspace(0, 1, 5)[:, None] / 10
    for step in range(1200):
        drawn = masks.drawn(noise)
        loss = torch.zeros(())
        for _, values in drawn.items():
            price = torch.linspace(0.0, 1.0, values.shape[-1])
            loss = loss + ((1 - values) * price * (per_layer if values.dim() == 2 else 1)).mean()
        loss = loss + lagrangian.penalty(masks.expected().sparsity(), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for site, found in masks.expected().sparsity().items():
        assert float((found - TARGET.sparsity[site]).detach().abs().max()) < 0.06, site
        assert float(found.mean().detach()) == pytest.approx(TARGET.sparsity[site], abs=0.03)
    for site, values in masks.final(TARGET).items():
        best = values[..., values.shape[-1] - TARGET.kept[site] :]
        assert float((best != 0).float().mean()) > 0.8, site


@pytest.mark.parametrize("tied", [True, False])
def test_cost_of_masks_of_zeros_and_ones_is_that_of_the_shape(tied: bool) -> None:
    target = Target.of(replace(PARENT, tied=tied), Sizes(3, 24, 8, 15))
    final = Masks(target.parent, generator()).final(target)
    sharp = Drawn(**{site: (values != 0).float() for site, values in final.items()})
    found = expected_shape(sharp, target.parent, seqlen=20)
    assert (found.layers, found.hidden, found.kv_heads, found.ffn) == (3, 24, 4, 15)
    assert found.parameters == target.shapes.parameters
    assert found.macs == forward_flops(target.shapes, 20) / 2


def test_expected_parameters_are_the_mean_over_draws() -> None:
    masks = Masks(PARENT, generator())
    for values in masks.parameters():
        values.data = 1.5 * torch.randn(values.shape, generator=generator(9)).abs()
    with torch.no_grad():
        stream = generator(1)
        draws = [masks.drawn(stream) for _ in range(2000)]
        costs = [
            expected_shape(
                Drawn(**{site: (v > 0).float() for site, v in drawn.items()}), PARENT, 20
            )
            for drawn in draws
        ]
        expected = expected_shape(masks.expected(), PARENT, 20)
    assert expected.parameters == pytest.approx(
        sum(cost.parameters for cost in costs) / len(costs), rel=0.02
    )
    assert expected.macs == pytest.approx(sum(cost.macs for cost in costs) / len(costs), rel=0.02)
