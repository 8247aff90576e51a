"""What one rank computes: against plain loops, across interruptions, with pruned weights."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from transformers import AutoModelForCausalLM

from espalier.errors import DIVERGED, Diverged, Interrupted
from espalier.host.images import load_image
from tests.fsdp.tiny_runs import job_of, place_of, train
from tests.kept import kept
from tests.unit.tiny_checkpoints import load_all
from training.gpu_fsdp.batches import Windows
from training.gpu_fsdp.trainer import FsdpTrainer
from training.protocol.order import Order
from training.protocol.schedule import learning_rate

pytestmark = pytest.mark.fsdp


@pytest.mark.parametrize("decay", ["all", "matrices"])
def test_the_weights_are_those_of_a_plain_loop(
    tmp_path: Path, inputs: dict[str, Path], decay: str
) -> None:
    """The whole batch at once, the stock model's own loss, torch's AdamW and clipping."""
    from espalier.data.tokens.reader import TokenData

    how = {"micro_batch": 1, "decay": decay, "weight_decay": 0.1 if decay == "all" else 5.0}
    run = train(tmp_path / "run", inputs, tokens=6 * 64, **how)
    model = AutoModelForCausalLM.from_pretrained(inputs["model"], attn_implementation="eager")
    groups: list[dict[str, Any]] = [
        {"params": [weight], "weight_decay": how["weight_decay"]} for weight in model.parameters()
    ]
    for group in groups if decay == "matrices" else []:
        if group["params"][0].ndim == 1:
            group["weight_decay"] = 0.0
    adam = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    windows = Windows(TokenData(inputs["data"]), "train", 16, False)
    order, losses = Order(windows.count, 0), []
    for step in range(6):
        batch = windows.read(order.windows_of(step * 4, step * 4 + 4))
        logits = model(batch.inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = learning_rate(step, 6, peak=3e-3, shape="cosine", warmup=0.05, final=0.1)
        adam.step()
        losses.append(loss.item())
    assert run.losses == pytest.approx(losses, abs=1e-5)
    expected = dict(model.named_parameters())
    for name, weight in run.weights.items():
        torch.testing.assert_close(weight, expected[name].detach(), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "how", [{"micro_batch": 1}, {"micro_batch": 2}, {"recompute": True}, {"micro_batch": 4}]
)
def test_how_it_is_run_changes_nothing(
    tmp_path: Path, inputs: dict[str, Path], how: dict[str, Any]
) -> None:
    plain = train(tmp_path / "plain", inputs, tokens=5 * 64)
    other = train(tmp_path / "other", inputs, tokens=5 * 64, **how)
    assert other.losses == pytest.approx(plain.losses, abs=1e-5)
    for row, same in zip(plain.rows, other.rows, strict=True):
        assert row["grad_norm"] == pytest.approx(same["grad_norm"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
def test_compiled_layers_change_nothing(
    tmp_path: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = kept("inductor", load_image("fsdp").lock_hash("cpu"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(programs))
    plain = train(tmp_path / "plain", inputs, tokens=3 * 64)
    compiled = train(tmp_path / "compiled", inputs, tokens=3 * 64, compile=True)
    assert compiled.losses == pytest.approx(plain.losses, abs=1e-4)
    assert compiled.weights.keys() == plain.weights.keys()


@pytest.mark.parametrize(
    "steps_by",
    [{"optimizer": "adamw"}, {"optimizer": "muon"}, {"decay": "matrices", "weight_decay": 5.0}],
)
@pytest.mark.parametrize("stopped_after", [1, 3, 6])
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    tmp_path: Path, inputs: dict[str, Path], stopped_after: int, steps_by: dict[str, Any]
) -> None:
    arguments = {"tokens": 8 * 64, "save_every": 3, "valid_every": 2, **steps_by}
    whole = train(tmp_path / "whole", inputs, **arguments)
    place = place_of(tmp_path / "parts")

    class Stopping(FsdpTrainer):
        def _agreed(self, asked: bool) -> bool:
            return self.steps_made() == stopped_after

        def steps_made(self) -> int:
            self.made = getattr(self, "made", 0) + 1
            return self.made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.gpu_fsdp.worker.FsdpTrainer", Stopping)
        with pytest.raises(Interrupted):
            train(place.output, inputs, **arguments)
    parts = train(place.output, inputs, **arguments)
    assert [row["step"] for row in parts.rows] == list(range(1, 9))
    assert parts.losses == whole.losses
    assert [r["grad_norm"] for r in parts.rows] == [r["grad_norm"] for r in whole.rows]
    assert parts.found["valid"] == whole.found["valid"]
    for name, weight in whole.weights.items():
        assert torch.equal(weight, parts.weights[name]), name


def test_an_incomplete_state_is_passed_over(tmp_path: Path, inputs: dict[str, Path]) -> None:
    whole = train(tmp_path / "whole", inputs, tokens=6 * 64, save_every=2)
    state = tmp_path / "whole" / ".run" / "scratch" / "state"
    assert sorted(path.name for path in state.iterdir()) == ["step-00000004", "step-00000006"]
    (state / "step-00000006" / ".metadata").unlink()
    again = train(tmp_path / "whole", inputs, tokens=6 * 64, save_every=2)
    assert again.losses == whole.losses
    assert [row["step"] for row in again.rows] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_pruned_weights_stay_zero_and_are_in_no_norm(
    tmp_path: Path, inputs: dict[str, Path], pruned: Path, optimizer: str
) -> None:
    before = load_all(pruned)
    run = train(tmp_path / "run", {**inputs, "model": pruned}, tokens=6 * 64, optimizer=optimizer)
    moved = 0
    for name, weight in run.weights.items():
        if ".layers." in name and weight.ndim == 2:
            zero = before[name] == 0
            assert torch.count_nonzero(weight[zero]) == 0
            assert zero.float().mean() == pytest.approx(0.5, abs=0.01)
            moved += int((weight != before[name]).sum())
    assert moved > 1000
    dense = train(tmp_path / "dense", {**inputs, "model": pruned}, tokens=6 * 64, policy="densify")
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.count_nonzero(dense.weights[name]) > 0.9 * dense.weights[name].numel()
    assert run.rows[0]["loss"] == dense.rows[0]["loss"]
    assert run.rows[0]["grad_norm"] < dense.rows[0]["grad_norm"]


def test_a_weight_that_training_made_zero_is_not_frozen(
    tmp_path: Path, inputs: dict[str, Path], pruned: Path
) -> None:
    job = job_of({**inputs, "model": pruned}, tokens=4 * 64)
    from tests.fsdp.tiny_runs import train as trained

    class Zeroing(FsdpTrainer):
        def _step(self, step: int, batch: Any) -> dict[str, float]:
            values = super()._step(step, batch)
            if step == 1:
                weight = self._parts.model.named_weights()["model.layers.0.mlp.up_proj.weight"]
                weight.detach().to_local()[:] = 0
            return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.gpu_fsdp.worker.FsdpTrainer", Zeroing)
        run = trained(tmp_path / "run", {**inputs, "model": pruned}, tokens=4 * 64)
    name = "model.layers.0.mlp.up_proj.weight"
    kept = load_all(pruned)[name] != 0
    assert torch.count_nonzero(run.weights[name][kept]) > 0.9 * kept.sum()
    assert torch.count_nonzero(run.weights[name][~kept]) == 0
    assert job.zeros


def test_the_sparse_control_has_the_mask_and_fresh_weights(
    tmp_path: Path, inputs: dict[str, Path], pruned: Path
) -> None:
    run = train(tmp_path / "run", {**inputs, "model": pruned}, tokens=64, init="random", lr=1e-9)
    before = load_all(pruned)
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(run.weights[name] == 0, before[name] == 0)
    kept = run.weights[name][before[name] != 0]
    assert kept.std() == pytest.approx(0.02, rel=0.1)
    assert not torch.equal(kept, before[name][before[name] != 0])


def test_documents_do_not_see_one_another(tmp_path: Path, inputs: dict[str, Path]) -> None:
    """With the mask, a sequence's states are those of its documents run alone."""
    from espalier.data.tokens.reader import TokenData

    model = AutoModelForCausalLM.from_pretrained(inputs["model"], attn_implementation="sdpa")
    windows = Windows(TokenData(inputs["data"]), "train", 64, True)
    batch = windows.read(torch.arange(2).numpy())
    assert batch.positions is not None
    together = model.model(input_ids=batch.inputs, position_ids=batch.positions, use_cache=False)
    for row, positions, states in zip(
        batch.inputs, batch.positions, together.last_hidden_state, strict=True
    ):
        starts = [i for i in range(64) if positions[i] == 0]
        assert len(starts) > 1
        for first, end in zip(starts, [*starts[1:], 64], strict=True):
            alone = model.model(input_ids=row[None, first:end], use_cache=False)
            torch.testing.assert_close(
                states[first:end], alone.last_hidden_state[0], atol=2e-5, rtol=1e-4
            )


def test_a_masked_run_differs_and_goes_on(tmp_path: Path, inputs: dict[str, Path]) -> None:
    masked = train(tmp_path / "m", inputs, tokens=3 * 4 * 64, seqlen=64, document_mask=True)
    plain = train(tmp_path / "p", inputs, tokens=3 * 4 * 64, seqlen=64)
    assert masked.losses[0] != plain.losses[0]
    assert masked.losses == pytest.approx(plain.losses, abs=0.2)


def test_a_teacher_alike_gives_nothing_to_learn(tmp_path: Path, inputs: dict[str, Path]) -> None:
    taught = train(
        tmp_path / "t", {**inputs, "teacher": inputs["model"]}, tokens=2 * 64, hidden_weight=1.0
    )
    assert taught.rows[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert taught.rows[0]["grad_norm"] < 1e-3


def test_a_teachers_kl_is_the_formulas(tmp_path: Path, inputs: dict[str, Path]) -> None:
    from espalier.data.tokens.reader import TokenData
    from tests.tiny import tiny_llama

    teacher = tiny_llama(tmp_path / "teacher", num_hidden_layers=4)
    run = train(tmp_path / "r", {**inputs, "teacher": teacher}, tokens=64, temperature=2.0)
    models = [AutoModelForCausalLM.from_pretrained(p) for p in (teacher, inputs["model"])]
    windows = Windows(TokenData(inputs["data"]), "train", 16, False)
    batch = windows.read(Order(windows.count, 0).windows_of(0, 4))
    p, q = (m(batch.inputs).logits.float().div(2).softmax(-1) for m in models)
    expected = 4 * (p * (p.log() - q.log())).sum(-1).mean()
    assert run.rows[0]["kl"] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(("rows", "taught_rows"), [(288, 320), (320, 288), (300, 320)])
def test_a_teacher_padded_beyond_the_tokenizer(
    tmp_path: Path, inputs: dict[str, Path], rows: int, taught_rows: int
) -> None:
    """As Qwen2.5 7B teaches 0.5B: one tokenizer, other numbers of rows."""
    from espalier.data.tokens.reader import TokenData
    from tests.tiny import tiny_llama

    model = tiny_llama(tmp_path / "model", vocab_size=rows)
    teacher = tiny_llama(tmp_path / "teacher", vocab_size=taught_rows, num_hidden_layers=4)
    given = {"data": inputs["data"], "model": model, "teacher": teacher}
    run = train(tmp_path / "r", given, tokens=64, micro_batch=1)
    models = [AutoModelForCausalLM.from_pretrained(p) for p in (teacher, model)]
    windows = Windows(TokenData(inputs["data"]), "train", 16, False)
    batch = windows.read(Order(windows.count, 0).windows_of(0, 4))
    common = min(rows, taught_rows)
    p, q = (m(batch.inputs).logits[..., :common].float().softmax(-1) for m in models)
    assert run.rows[0]["kl"] == pytest.approx((p * (p / q).log()).sum(-1).mean().item(), rel=1e-4)
    (line,) = job_of(given, tokens=64).notices
    assert line.startswith(f"TEACHER has {taught_rows} rows of logits and the model {rows}")
    assert f"the first {common}," in line


def test_the_best_weights_are_kept(tmp_path: Path, inputs: dict[str, Path]) -> None:
    """A rate that ruins the model: the best lie before the last."""
    run = train(tmp_path / "r", inputs, tokens=10 * 64, valid_every=2, lr=0.3, warmup=0.9)
    step, loss = run.found["best"]
    assert step < 10
    assert loss == min(loss for _, loss in run.found["valid"])
    best = tmp_path / "r" / "best"
    model = AutoModelForCausalLM.from_pretrained(best)
    assert sum(p.numel() for p in model.parameters()) > 0


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, inputs: dict[str, Path]) -> None:
    class Poisoned(FsdpTrainer):
        def _step(self, step: int, batch: Any) -> dict[str, float]:
            if step == 3:
                weight = self._parts.model.named_weights()["model.norm.weight"]
                weight.detach().to_local()[:] = float("nan")
            return super()._step(step, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.gpu_fsdp.worker.FsdpTrainer", Poisoned)
        with pytest.raises(Diverged, match="at step 4; the state of step 2 is kept") as error:
            train(tmp_path / "r", inputs, tokens=6 * 64, save_every=2)
    assert error.value.exit_code == DIVERGED
    assert not (tmp_path / "r" / "config.json").exists()


def test_stock_transformers_reads_the_result(tmp_path: Path, inputs: dict[str, Path]) -> None:
    run = train(tmp_path / "r", inputs, tokens=40 * 64, lr=2e-2)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "r")
    for name, weight in model.named_parameters():
        assert torch.equal(weight, run.weights[name])
    assert run.losses[-1] < run.losses[0] - 0.2


def test_half_precision_products_give_nearly_the_same_losses(
    tmp_path: Path, inputs: dict[str, Path]
) -> None:
    exact = train(tmp_path / "exact", inputs, tokens=5 * 64)
    half = train(tmp_path / "half", inputs, tokens=5 * 64, precision="bf16")
    assert half.losses != exact.losses
    assert half.losses == pytest.approx(exact.losses, abs=0.02)
    assert all(weight.dtype == torch.float32 for weight in half.weights.values())


@pytest.mark.parametrize(
    ("tracker", "files"),
    [("tensorboard", "tensorboard/**/events.out*"), ("wandb", "wandb/offline-run-*/*.wandb")],
)
def test_trackers_lie_beside_the_result(
    tmp_path: Path, inputs: dict[str, Path], tracker: str, files: str
) -> None:
    PartialState._reset_state()  # as in a process of its own, whatever ran in this one before
    run = train(tmp_path / "run", inputs, tokens=2 * 64, tracker=tracker)
    assert list((run.output / "trackers").glob(files))


def test_a_run_that_only_lacks_its_export(tmp_path: Path, inputs: dict[str, Path]) -> None:
    whole = train(tmp_path / "run", inputs, tokens=4 * 64)
    for path in whole.output.glob("*.safetensors"):
        path.unlink()
    again = train(tmp_path / "run", inputs, tokens=4 * 64)
    assert again.found["loss"] == whole.found["loss"] == whole.losses[-1]
    assert len(again.losses) == 4
    assert again.weights.keys() >= {"model.norm.weight"}
