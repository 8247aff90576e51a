"""What follows an evaluation: new proportions, and what is remembered of it."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import methods.sheared_llama.torchvision_operators  # noqa: F401 - before composer

pytestmark = pytest.mark.sheared_llama

pytest.importorskip("composer")

from espalier.contract.progress import Progress  # noqa: E402
from espalier.errors import InputError  # noqa: E402
from methods.sheared_llama.loading import EVALUATOR, DynamicLoading  # noqa: E402
from methods.sheared_llama.losses import UNITS  # noqa: E402
from methods.sheared_llama.model import LOSSES, DomainLosses  # noqa: E402
from methods.sheared_llama.sampler import DomainSampler  # noqa: E402
from methods.sheared_llama.shares import Rule  # noqa: E402

REFERENCES = {"a": 2.0, "b": 3.0, "c": 1.0}
BEFORE = [0.5, 0.25, 0.25]


def evaluated(losses: list[float | None], step: int = 4) -> Any:
    """Composer's state behind an evaluation of 10 tokens of each domain; None: of no token."""
    metric = DomainLosses(len(losses))
    for domain, loss in enumerate(losses):
        if loss is not None and math.isfinite(loss):
            metric.sums[0, domain] = round(10 * loss * UNITS)
            metric.sums[1, domain] = 10
        elif loss is not None:
            metric.sums[2, domain] = 1
    metrics = {EVALUATOR: {LOSSES: metric}}
    return SimpleNamespace(eval_metrics=metrics, timestamp=SimpleNamespace(batch=step))


def loading(rule: Rule) -> tuple[DynamicLoading, DomainSampler]:
    sampler = DomainSampler({"a": 5, "b": 5, "c": 5}, np.array(BEFORE), 4, seed=0)
    references = {} if rule == "fixed" else REFERENCES
    return DynamicLoading(sampler, rule, references, Progress()), sampler


def smoothed(weights: list[float], total: float = 1) -> list[float]:
    return [(1 - 1e-4) * total * weight / sum(weights) + 1e-4 / 3 for weight in weights]


@pytest.mark.parametrize("rule", ["doremi", "bandit", "fixed"])
def test_proportions_follow_the_excess(rule: Rule) -> None:
    following, sampler = loading(rule)
    following.eval_end(evaluated([2.5, 3.0, 0.5]), None)
    excess = [0.5, 0.0, -0.5]
    wanted = {
        "doremi": smoothed([p * math.exp(e) for p, e in zip(BEFORE, excess, strict=True)]),
        "bandit": smoothed([math.exp(p + e) for p, e in zip(BEFORE, excess, strict=True)]),
        "fixed": BEFORE,
    }[rule]
    assert sampler.proportions.tolist() == pytest.approx(wanted, abs=1e-9)
    (found,) = following.evaluations
    assert found["step"] == 4
    assert found["loss"] == pytest.approx(2.0)
    assert found["losses"] == pytest.approx({"a": 2.5, "b": 3.0, "c": 0.5})
    assert found["proportions"] == dict(zip("abc", sampler.proportions.tolist(), strict=True))


def test_a_domain_without_a_token_keeps_its_share() -> None:
    following, sampler = loading("doremi")
    following.eval_end(evaluated([2.5, None, 1.0]), None)
    others = smoothed([0.5 * math.exp(0.5), 0.25], 0.75)
    kept = (1 - 1e-4) * 0.25 + 1e-4 / 3
    assert sampler.proportions.tolist() == pytest.approx([others[0], kept, others[1]], abs=1e-9)
    assert following.evaluations[0]["losses"]["b"] is None


def test_a_loss_that_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    following, sampler = loading("doremi")
    with pytest.raises(InputError, match="the loss of b became NaN or infinite"):
        following.eval_end(evaluated([2.5, math.nan, 1.0]), None)
    assert sampler.proportions.tolist() == BEFORE
    assert following.evaluations == []
    assert not capsys.readouterr().err


def test_evaluations_are_saved_and_gone_on_from(capsys: pytest.CaptureFixture[str]) -> None:
    following, _ = loading("bandit")
    following.eval_end(evaluated([2.5, 3.0, 0.5], 2), None)
    assert "step 2, held out: a 2.500" in capsys.readouterr().err
    resumed, _ = loading("bandit")
    resumed.load_state_dict(following.state_dict())
    resumed.eval_end(evaluated([2.0, 3.0, 0.5], 4), None)
    assert [one["step"] for one in resumed.evaluations] == [2, 4]
    assert resumed.evaluations[0] == following.evaluations[0]
    assert len(following.evaluations) == 1


def test_a_metric_adds_batches_up_by_domain() -> None:
    metric = DomainLosses(2)
    ids = torch.tensor([[0, 1, 2], [2, 1, 0]])
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    for row, domain in ((0, 1), (1, 1)):
        batch = {"input_ids": ids[row : row + 1], "domains": torch.tensor([domain])}
        metric.update(logits[row : row + 1], batch)
    chosen = logits.double().log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])
    assert float(metric.compute()) == pytest.approx(-float(chosen.mean()), abs=1e-6)
    assert metric.sums[1].tolist() == [0, 4]
