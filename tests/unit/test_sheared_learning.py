"""One step of Composer's: what it descends, whatever a microbatch is."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import methods.sheared_llama.torchvision_operators  # noqa: F401 - before composer

pytestmark = pytest.mark.sheared_llama

pytest.importorskip("composer")

from composer import Callback, Event, Trainer  # noqa: E402

from methods.sheared_llama.batches import DomainBatches  # noqa: E402
from methods.sheared_llama.clipping import Clipping  # noqa: E402
from methods.sheared_llama.domains import ArraySource  # noqa: E402
from methods.sheared_llama.lagrangian import Lagrangian  # noqa: E402
from methods.sheared_llama.learning import NOISE, MaskLearning, optimizer  # noqa: E402
from methods.sheared_llama.losses import next_token_losses  # noqa: E402
from methods.sheared_llama.masked import masking  # noqa: E402
from methods.sheared_llama.masks import Drawn, Masks  # noqa: E402
from methods.sheared_llama.model import ShearedModel  # noqa: E402
from methods.sheared_llama.sampler import DomainSampler  # noqa: E402
from tests.unit.sheared import ids, shapes_of, stock, target_of  # noqa: E402

ROWS, SEED = 8, 3
RATES = {"weights": 1e-2, "masks": 0.5, "multipliers": 0.25}


def sheared() -> ShearedModel:
    """A tiny model whose multipliers are not 0, so that the penalty has a gradient."""
    model = stock(torch.float32)
    lagrangian = Lagrangian(target_of(model), 0)
    with torch.no_grad():
        lagrangian.lambda1.copy_(torch.tensor([3.0, -2.0, 5.0, 1.0]))
        lagrangian.lambda2.copy_(torch.tensor([1.0, 4.0, -3.0, 2.0]))
    return ShearedModel(
        model, Masks(shapes_of(model), torch.Generator().manual_seed(0)), lagrangian, 1
    )


class Watching(Callback):  # type: ignore[misc]
    """Keeps each step's gradients and losses, and each forward pass's masks."""

    def __init__(self, learning: MaskLearning) -> None:
        self._learning = learning
        self.gradients: list[dict[str, Tensor]] = []
        self.losses: list[float] = []
        self.masks: list[list[Tensor]] = []

    def batch_start(self, state: Any, logger: Any) -> None:
        self.masks.append([])

    def after_forward(self, state: Any, logger: Any) -> None:
        self.masks[-1].append(state.model.masked._norms[0].masks.detach().clone())

    def after_train_batch(self, state: Any, logger: Any) -> None:
        found = {n: p.grad.clone() for n, p in state.model.named_parameters() if p.grad is not None}
        self.gradients.append(found)
        self.losses.append(self._learning.cross_entropy)


def trained(micro: int, *, sampled: bool = True, steps: int = 1) -> tuple[ShearedModel, Watching]:
    model = sheared()
    rows = ids(ROWS).numpy()
    sampler = DomainSampler({"a": ROWS}, np.array([1.0]), ROWS, SEED)
    learning = MaskLearning(target_of(model.stock), SEED, sampled=sampled)
    watching = Watching(learning)
    trainer = Trainer(
        model=model,
        train_dataloader=DomainBatches({"a": ArraySource(rows)}, sampler).loader(),
        max_duration=f"{steps}ba",
        optimizers=optimizer(model, **RATES),
        algorithms=[learning],
        callbacks=[watching],
        device="cpu",
        device_train_microbatch_size=micro,
        precision="fp32",
        progress_bar=False,
    )
    trainer.fit()
    trainer.close()
    return model, watching


def expected(sampled: bool) -> tuple[dict[str, Tensor], float]:
    """The gradients of loss + penalty, once, by autograd alone; and the loss."""
    model = sheared()
    generator = torch.Generator().manual_seed(SEED * NOISE) if sampled else None
    model.masked.remove()
    with masking(model.stock, model.masks.drawn(generator)):
        tokens = ids(ROWS)
        loss = next_token_losses(model.stock(input_ids=tokens).logits, tokens).mean()
        gaps = {
            site: rows - target_of(model.stock).sparsity[site]
            for site, rows in model.masks.expected().sparsity().items()
        }
        penalty = torch.zeros(())
        pairs = zip(model.lagrangian.lambda1, model.lagrangian.lambda2, strict=True)
        for gap, (one, two) in zip(gaps.values(), pairs, strict=True):
            penalty = penalty + (one * gap + two * gap**2).mean()
        (loss + penalty).backward()
    names = {id(parameter): name for name, parameter in sheared_names(model)}
    found = {names[id(p)]: p.grad for _, p in sheared_names(model) if p.grad is not None}
    return found, float(loss.detach())


def sheared_names(model: ShearedModel) -> list[tuple[str, Any]]:
    """Parameters by names that do not change where masks are installed."""
    return [(name.replace(".stock.", "."), one) for name, one in model.named_parameters()]


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("micro", [2, 3, 8])
def test_the_penalty_counts_once_whatever_a_microbatch_is(micro: int, sampled: bool) -> None:
    _, watching = trained(micro, sampled=sampled)
    (found,), (loss,) = watching.gradients, watching.losses
    gradients, whole = expected(sampled)
    mine = {name.replace(".stock.", "."): values for name, values in found.items()}
    assert mine.keys() == gradients.keys()
    for name, values in gradients.items():
        assert float((mine[name] - values).abs().max()) <= 1e-6 * max(1, float(values.abs().max()))
    assert float(found["lagrangian.lambda1"].abs().min()) > 1e-3
    assert loss == pytest.approx(whole, abs=1e-6)
    assert len(watching.masks[0]) == -(-ROWS // micro)


def test_a_step_has_one_set_of_masks_and_the_next_another() -> None:
    _, watching = trained(4, steps=2)
    (first, second), (third, fourth) = watching.masks
    assert torch.equal(first, second)
    assert torch.equal(third, fourth)
    assert not torch.equal(first, third)


def test_weights_and_masks_descend_and_multipliers_ascend() -> None:
    """The first step of AdamW is the rate times the gradient's sign, whatever its size."""
    before = sheared()
    before.masks.bound()
    after, watching = trained(8)
    (gradients,) = watching.gradients
    for (name, old), (_, new) in zip(
        before.named_parameters(), after.named_parameters(), strict=True
    ):
        kind = {"stock": "weights", "masks": "masks", "lagrangian": "multipliers"}
        rate = RATES[kind[name.partition(".")[0]]] * (1 if name.startswith("lagrangian") else -1)
        there = gradients[name].abs() > 1e-4
        moved = (new - old).detach()[there]
        assert torch.allclose(moved, rate * gradients[name].sign()[there], rtol=2e-3, atol=1e-6)


def test_an_evaluation_has_the_masks_of_the_target() -> None:
    model = sheared()
    target = target_of(model.stock)
    learning = MaskLearning(target, SEED, sampled=True)
    used: list[Drawn] = []
    model.masked.use = used.append  # type: ignore[method-assign,assignment]
    state = SimpleNamespace(model=model, timestamp=SimpleNamespace(batch=5))
    learning.apply(Event.EVAL_START, state, None)
    (masks,) = used
    for site, values in masks.items():
        assert torch.all((values > 0).sum(-1) == target.kept[site])
    assert not learning.match(Event.EVAL_END, state)


@pytest.mark.parametrize("largest", [0.5, 100.0])
def test_gradients_are_clipped_together(largest: float) -> None:
    """Masks, multipliers and weights have one norm; what is below the bound stays as it is."""
    model, other = sheared(), sheared()
    for one in (model, other):
        for number, parameter in enumerate(one.parameters()):
            parameter.grad = torch.full_like(parameter, 0.01 * (number + 1))
    next(model.parameters()).grad = next(other.parameters()).grad = None  # as of what is frozen
    Clipping(largest).apply(Event.AFTER_TRAIN_BATCH, SimpleNamespace(model=model), Any)
    norm = torch.nn.utils.clip_grad_norm_(other.parameters(), largest)
    assert 0.5 < float(norm) < 100
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        assert mine.grad is None or torch.equal(mine.grad, theirs.grad)
