"""Budgets, schedules, orders and costs: closed forms and properties."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espalier.contract.processes import Share
from espalier.errors import InputError
from espalier.models.flops import forward_flops, training_flops
from espalier.models.shapes import Shapes
from training.gpu_fsdp.spec import TrainingParameters
from training.protocol.budget import Budget
from training.protocol.order import Order
from training.protocol.parameters import compact
from training.protocol.run import as_stored
from training.protocol.schedule import learning_rate, warmup_steps

LLAMA_8B = Shapes(
    hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=8, head_dim=128,
    vocabulary=128256, positions=131072, tied=False, item_bytes=2,
)  # fmt: skip


def budget(tokens: int | None, available: int, epochs: float | None = None) -> Budget:
    return Budget.of(tokens=tokens, epochs=epochs, batch=512, seqlen=8192, available=available)


def test_the_protocols_50_billion_are_52() -> None:
    nominal = budget(50_000_000_000, 10**12)
    assert (nominal.steps, nominal.step_tokens) == (11921, 4_194_304)
    real = budget(52_428_800_000, 10**12)
    assert (real.steps, real.tokens) == (12500, 52_428_800_000)
    assert str(real) == "12,500 steps of 4,194,304 tokens: 52,428,800,000 tokens"
    assert "for the 50,000,000,000 asked for (+0.00%)" in str(nominal)


def test_more_tokens_than_there_are_need_epochs() -> None:
    with pytest.raises(InputError, match=r"2\.0\d epochs of the 5,000,000,000 .* give EPOCHS="):
        budget(10_000_000_000, 5_000_000_000)
    allowed = budget(10_000_000_000, 5_000_000_000, epochs=2.1)
    assert allowed.epochs == pytest.approx(2.0, abs=0.01)
    with pytest.raises(InputError, match=r"EPOCHS=4\.20 or more, or BATCH=122 or less, or more"):
        budget(None, 1_000_000)
    assert budget(None, 5_000_000_000).steps == 4_999_999_999 // 8192 // 512


@settings(max_examples=50)
@given(st.integers(1, 400), st.integers(0, 5), st.integers(1, 4))
def test_every_window_is_seen_once_an_epoch(windows: int, seed: int, epochs: int) -> None:
    order = Order(windows, seed)
    seen = order.windows_of(0, windows * epochs)
    assert (np.bincount(seen, minlength=windows) == epochs).all()
    assert (np.sort(seen[:windows]) == np.arange(windows)).all()


@settings(max_examples=50)
@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 50), st.integers(1, 100))
def test_ranks_share_a_batch_without_loss(world: int, each: int, step: int, windows: int) -> None:
    order, batch = Order(windows, 0), world * each
    first, end = step * batch, (step + 1) * batch
    shares = [Share(rank, world).of(first, end) for rank in range(world)]
    together = np.concatenate([order.windows_of(*share) for share in shares])
    assert (together == order.windows_of(first, end)).all()


@pytest.mark.parametrize("shape", ["cosine", "linear", "wsd", "constant"])
def test_a_schedule_warms_up_and_falls(shape: str) -> None:
    rates = [
        learning_rate(s, 200, peak=1.0, shape=shape, warmup=0.05, final=0.1)  # type: ignore[arg-type]
        for s in range(200)
    ]
    assert warmup_steps(200, 0.05) == 10
    assert rates[:10] == pytest.approx([1 - (1 - t / 10) ** 2 for t in range(1, 11)])
    assert max(rates) == pytest.approx(1.0)
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(1.0 if shape == "constant" else 0.1)
    if shape == "cosine":
        assert rates[104] == pytest.approx(0.55, abs=1e-6)
    assert warmup_steps(10**6, 0.05) == 2000


def test_flops_of_llama_8b() -> None:
    """6 a weight but the embedding's; attention at 8192 tokens adds 12 layers × width × half."""
    weights = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336) + 128256 * 4096
    attention = 12 * 32 * 4096 * 4096
    assert training_flops(LLAMA_8B, 8192) == 6 * weights + attention
    assert forward_flops(LLAMA_8B, 8192) == 2 * weights + attention / 3


def test_parameters_name_their_result() -> None:
    named = TrainingParameters.from_assignments({"TOKENS": "52.4B", "INIT": "random"})
    assert named.label() == "scratch-52.4B"
    assert TrainingParameters().label() == "1ep"
    assert compact(52_428_800_000) == "52.43B"
    assert compact(999) == "999"
    with pytest.raises(InputError, match="MICRO_BATCH=3 does not divide BATCH=512"):
        TrainingParameters.from_assignments({"MICRO_BATCH": "3"})


def test_how_it_is_run_is_not_fingerprinted() -> None:
    plain = TrainingParameters()
    other = TrainingParameters(
        micro_batch=2, recompute=True, compile=True, replicas=2, save_every=7, tracker="none"
    )
    assert plain.identity() == other.identity()
    assert plain.identity() != TrainingParameters(seed=1).identity()
    assert "micro_batch" not in plain.identity()


@pytest.mark.parametrize(
    ("stated", "stored"),
    [
        ({}, "float32"),
        ({"dtype": "float32"}, "float32"),
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": "float16"}, "bfloat16"),
    ],
)
def test_a_model_is_stored_as_it_says(stated: dict[str, str], stored: str) -> None:
    """Where it says nothing it is float32, as conversions and transformers have it too."""
    assert as_stored(stated)["torch_dtype"] == stored
