"""What a recovery trains is what it publishes, every zero kept; against plain loops."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, linear
from transformers import AutoModelForCausalLM

from espalier.contract.manifest import pruning_of
from espalier.errors import EnvironmentFailure, Interrupted
from espalier.models.gates import check_checkpoint
from tests.fsdp.recoveries import Recovered, instructions, job_of, recover, text
from tests.fsdp.tiny_runs import place_of
from tests.tiny import tiny_llama
from tests.tiny_pruned import padding_by_hand, tiny_padded
from tests.unit.tiny_checkpoints import load_all
from training.protocol.account import pruning_section
from training.protocol.order import Order
from training.protocol.schedule import learning_rate
from training.recover.adapters import MaskedProduct, added
from training.recover.dropout import Drawn, SampleDropout
from training.recover.trainer import RecoverTrainer

pytestmark = pytest.mark.fsdp


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text(tmp_path_factory.mktemp("words") / "words.txt")


@pytest.fixture(scope="session")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_padded(tmp_path_factory.mktemp("padded") / "tiny", attention_bias=True)


@pytest.fixture
def models(parent: Path, pruned: Path) -> dict[str, Path]:
    return {"dense": parent, "masked": pruned}


def logits_of(trainer: RecoverTrainer, ids: torch.Tensor) -> torch.Tensor:
    """What the model gives with its adapters beside it, not merged."""
    trainer._model.eval()
    with torch.no_grad():
        return trainer._model.stock(ids).logits


def stock_logits(directory: Path, ids: torch.Tensor) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(ids).logits


def some_ids() -> torch.Tensor:
    return torch.randint(2, 288, (3, 20), generator=torch.Generator().manual_seed(1))


def check_merged(run: Recovered, model: Path) -> None:
    """The published weights give what the trained ones gave, and are others than the model's."""
    expected = logits_of(run.trainer, some_ids())
    torch.testing.assert_close(stock_logits(run.output, some_ids()), expected, atol=1e-5, rtol=0)
    assert (expected - stock_logits(model, some_ids())).abs().max() > 0.01


def test_a_dense_model(tmp_path: Path, parent: Path, words: Path) -> None:
    run = recover(tmp_path / "run", parent, words, tokens=20 * 64)
    check_merged(run, parent)
    before = load_all(parent)
    for name, weight in run.weights.items():
        adapted = ".layers." in name and weight.ndim == 2
        assert torch.equal(weight, before[name]) is not adapted, name
    assert run.losses[-1] < run.losses[0] - 0.1


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
def test_a_tied_head_biases_and_head_norms(tmp_path: Path, words: Path, family: str) -> None:
    model = tiny_llama(tmp_path / "tied", family=family, tie_word_embeddings=True)
    run = recover(tmp_path / "run", model, words, tokens=10 * 64)
    check_merged(run, model)
    assert run.weights.keys() == load_all(model).keys()


def test_a_mask_is_kept(tmp_path: Path, pruned: Path, words: Path) -> None:
    run = recover(tmp_path / "run", pruned, words, tokens=20 * 64)
    check_merged(run, pruned)
    check_every_zero(run, pruned)
    check_checkpoint(run.output, pruning=pruning_of(pruned))
    account = pruning_section(run.trainer.job, lambda: 0.5)
    assert account == pruning_of(pruned)


def check_every_zero(run: Recovered, model: Path) -> None:
    for name, weight in load_all(model).items():
        found = run.weights[name]
        assert torch.equal(found == 0, weight == 0), name
        if ".layers." in name and weight.ndim == 2:
            assert (found != weight)[weight != 0].float().mean() > 0.99


def test_a_mask_that_no_manifest_tells_of(tmp_path: Path, pruned: Path, words: Path) -> None:
    model = shutil.copytree(pruned, tmp_path / "found")
    (model / "manifest.json").unlink()
    run = recover(tmp_path / "run", model, words, tokens=6 * 64)
    check_every_zero(run, model)
    assert "POLICY=preserve keeps them" in "".join(run.trainer.job.notices)
    dense = recover(tmp_path / "dense", model, words, tokens=6 * 64, policy="densify")
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.count_nonzero(dense.weights[name]) > 0.99 * dense.weights[name].numel()


def test_padding_is_kept_and_zeros_beside_it_are_trained(
    tmp_path: Path, padded: Path, words: Path
) -> None:
    run = recover(tmp_path / "run", padded, words, tokens=20 * 64, policy="densify")
    check_merged(run, padded)
    before, padding = load_all(padded), padding_by_hand()
    for name, weight in run.weights.items():
        where = padding.get(name, torch.zeros_like(weight, dtype=torch.bool))
        assert torch.count_nonzero(weight[where]) == 0, name
        if weight.ndim == 2 and ".layers." in name:
            assert (weight[~where] != before[name][~where]).float().mean() > 0.9, name
    check_checkpoint(run.output, pruning=pruning_of(padded))
    assert pruning_section(run.trainer.job, lambda: 0.0) == pruning_of(padded)


class Plain(torch.nn.Module):
    """A matrix with an adapter, as the formula has it."""

    def __init__(self, weight: torch.Tensor, A: torch.Tensor, scale: float, masked: bool) -> None:
        super().__init__()
        self.weight, self.scale = weight.clone(), scale
        self.mask = weight != 0 if masked else torch.ones_like(weight)
        self.A = torch.nn.Parameter(A.clone())
        self.B = torch.nn.Parameter(torch.zeros(weight.shape[0], A.shape[0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight + self.mask * (self.scale * self.B @ self.A))


def of_a_plain_loop(model: Path, trainer: RecoverTrainer, steps: int) -> tuple[list[float], Any]:
    """Losses and matrices of a loop that has the stock model, the formula and torch's AdamW."""
    job = trainer.job
    plain = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager")
    plain.requires_grad_(False)
    adapted: dict[str, Plain] = {}
    for name in [name for name, m in plain.named_modules() if isinstance(m, torch.nn.Linear)]:
        if name != "lm_head":
            above, _, last = name.rpartition(".")
            weight = plain.get_submodule(name).weight
            A = trainer.adapters[f"{name}.lora_A"].detach()
            adapted[name] = Plain(weight, A, job.parameters.scale, job.masked)
            setattr(plain.get_submodule(above), last, adapted[name])
    trained = [p for module in adapted.values() for p in module.parameters()]
    adam = torch.optim.AdamW(trained, betas=(0.9, 0.999), weight_decay=0.01)
    order, losses = Order(job.budget.windows, 0), []
    for step in range(steps):
        batch = job.examples.train.read(order.windows_of(step * 4, step * 4 + 4))
        logits = plain(batch.inputs).logits
        loss = cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        total = job.budget.steps
        rate = learning_rate(step, total, peak=3e-2, shape="cosine", warmup=0.05, final=0.1)
        for group in adam.param_groups:
            group["lr"] = rate
        adam.step()
        losses.append(loss.item())
    return losses, adapted


@pytest.mark.parametrize("micro", [1, 4])
@pytest.mark.parametrize("kind", ["dense", "masked", "instructions"])
def test_the_adapters_are_those_of_a_plain_loop(
    tmp_path: Path, models: dict[str, Path], words: Path, kind: str, micro: int
) -> None:
    model, data, how = models.get(kind, tmp_path), words, {"seqlen": 16}
    if kind == "instructions":
        model = tiny_llama(tmp_path / "long", max_position_embeddings=512)
        data, how = instructions(tmp_path / "rows.json"), {"seqlen": 400}
    given = {**how, "dropout": 0.0, "weight_decay": 0.01, "micro_batch": micro, "epochs": 1}
    first = RecoverTrainer(job_of(model, data, **given), place_of(tmp_path / "first"), "cpu")
    losses, adapted = of_a_plain_loop(model, first, first.job.budget.steps)
    run = recover(tmp_path / "run", model, data, **given)
    assert run.losses == pytest.approx(losses, abs=1e-4)
    for name, module in adapted.items():
        weight = module.weight + module.mask * (module.scale * module.B @ module.A)
        found = run.weights[f"{name}.weight"]
        torch.testing.assert_close(found, weight.detach(), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("whole", [True, False])
def test_the_gradients_of_a_masked_product(whole: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weights = random(5, 6) * (random(5, 6) > 0)
    x, A, B = (random(*shape).requires_grad_() for shape in ((2, 3, 6), (2, 6), (5, 2)))

    def product(*given: torch.Tensor) -> torch.Tensor:
        return MaskedProduct.apply(given[0], weights, given[1], given[2], 0.7, whole)

    expected = linear(x, (weights if whole else 0) + (weights != 0) * (0.7 * B @ A))
    torch.testing.assert_close(product(x, A, B), expected)
    assert torch.autograd.gradcheck(product, (x, A, B))


def test_what_is_added_to_a_zero_is_zero_whatever_is_added() -> None:
    weights = torch.tensor([[0.0, -0.0, 1e-40, 1.0]])
    found = added(weights, torch.full((1, 4), 3e38), torch.full((1, 1), 3e38), 2.0)
    assert found[0, :2].tolist() == [0.0, 0.0]
    assert torch.isinf(found[0, 2:]).all()


@pytest.mark.parametrize("kind", ["dense", "masked"])
def test_how_it_is_run_changes_nothing(
    tmp_path: Path, models: dict[str, Path], words: Path, kind: str
) -> None:
    """Dropout's masks belong to the samples: no micro batch moves them."""
    source, length = models[kind], {"tokens": 5 * 64}
    plain = recover(tmp_path / "plain", source, words, **length, dropout=0.3)
    for name, how in (
        ("one", {"micro_batch": 1}), ("two", {"micro_batch": 2}), ("again", {"recompute": True})
    ):  # fmt: skip
        other = recover(tmp_path / name, source, words, **length, dropout=0.3, **how)
        assert other.losses == pytest.approx(plain.losses, abs=1e-5)
    without = recover(tmp_path / "without", source, words, **length, dropout=0.0)
    assert without.losses[0] == plain.losses[0]  # nothing is added yet
    assert without.losses[-1] != pytest.approx(plain.losses[-1], abs=1e-4)


def test_dropout_zeroes_its_share_and_scales_the_rest() -> None:
    drawn = Drawn(seed=3, length=64, samples=(5, 6))
    dropout = SampleDropout(0.25, "x", drawn).train()
    ones = torch.ones(2, 50, 32)
    found = dropout(ones)
    assert found.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (found == 0).float().mean() == pytest.approx(0.25, abs=0.02)
    assert not torch.equal(found[0], found[1])
    drawn.samples = (6,)
    assert torch.equal(dropout(ones[:1, :20])[0], found[1, :20])
    assert torch.equal(dropout.eval()(ones), ones)
    assert not torch.equal(SampleDropout(0.25, "y", drawn).train()(ones[:1])[0], found[1])


@pytest.mark.parametrize("stopped_after", [1, 3, 6])
@pytest.mark.parametrize("kind", ["dense", "masked"])
def test_an_interrupted_run_gives_the_same_bytes(
    tmp_path: Path, models: dict[str, Path], words: Path, kind: str, stopped_after: int
) -> None:
    source = models[kind]
    arguments = {"tokens": 8 * 64, "save_every": 3, "valid_every": 2, "dropout": 0.2}
    whole = recover(tmp_path / "whole", source, words, **arguments)

    class Stopping(RecoverTrainer):
        made = 0

        def _agreed(self, asked: bool) -> bool:
            self.made += 1
            return self.made == stopped_after

    with pytest.raises(Interrupted):
        recover(tmp_path / "parts", source, words, Stopping, **arguments)
    state = tmp_path / "parts" / ".run" / "scratch" / "state"
    sizes = [path.stat().st_size for path in state.rglob("*.safetensors")]
    adapters = sum(weight.numel() for weight in whole.trainer.adapters.values())
    assert all(size < 3 * 4 * adapters + 20_000 for size in sizes)  # no frozen weight
    parts = recover(tmp_path / "parts", source, words, **arguments)
    assert parts.losses == whole.losses
    assert [row["step"] for row in parts.rows] == list(range(1, 9))
    assert parts.found["valid"] == whole.found["valid"]
    assert parts.bytes == whole.bytes


def test_a_state_that_is_damaged_is_told(tmp_path: Path, parent: Path, words: Path) -> None:
    recover(tmp_path / "run", parent, words, tokens=4 * 64, save_every=2)
    state = tmp_path / "run" / ".run" / "scratch" / "state"
    assert sorted(path.name for path in state.iterdir()) == ["step-00000002", "step-00000004"]
    file = state / "step-00000004" / "adapters.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(EnvironmentFailure, match=r"step-00000004 is damaged \(.*\); remove it"):
        recover(tmp_path / "run", parent, words, tokens=4 * 64, save_every=2)


def test_half_precision_is_added_in_float32_and_rounded_once(tmp_path: Path, words: Path) -> None:
    model = tiny_llama(tmp_path / "half", dtype=torch.bfloat16)
    run = recover(tmp_path / "run", model, words, tokens=10 * 64)
    before, scale = load_all(model), run.trainer.job.parameters.scale
    assert run.trainer.job.precision == "bf16"
    for name, A in run.trainer.adapters.items():
        assert A.dtype == torch.float32
        if name.endswith("lora_A"):
            matrix = name.removesuffix(".lora_A")
            B = run.trainer.adapters[f"{matrix}.lora_B"]
            expected = before[f"{matrix}.weight"].float() + (B @ A * scale).detach()
            assert torch.equal(run.weights[f"{matrix}.weight"], expected.to(torch.bfloat16))
    exact = recover(tmp_path / "exact", model, words, tokens=10 * 64, precision="float32")
    assert run.losses == pytest.approx(exact.losses, abs=0.05)
    assert run.trainer.merged_difference() < 0.05


def test_only_responses_count_and_padding_does_not(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "long", max_position_embeddings=512)
    data = instructions(tmp_path / "rows.json")
    run = recover(tmp_path / "run", model, data, seqlen=400, epochs=1)
    examples, stock = run.trainer.job.examples.train, AutoModelForCausalLM.from_pretrained(model)
    total, counted = 0.0, 0
    for number in Order(len(examples), 0).windows_of(0, 4):
        ids = torch.from_numpy(examples.ids[number]).long()
        first = int(examples.given[number])
        logits = stock(ids[None, :-1]).logits[0]
        total += cross_entropy(logits[first - 1 :], ids[first:], reduction="sum").item()
        counted += len(ids) - first
    assert run.losses[0] == pytest.approx(total / counted, abs=1e-5)
    with_prompts = recover(tmp_path / "all", model, data, seqlen=400, epochs=1, prompt_loss=True)
    assert with_prompts.losses[0] != pytest.approx(run.losses[0], abs=1e-3)
    told = run.trainer.job.budget
    assert told.tokens == sum(run.trainer.job.examples.lengths[o] for o in Order(
        len(examples), 0).windows_of(0, told.steps * 4))  # fmt: skip
    assert run.rows[-1]["tokens"] == told.tokens


def test_a_teacher(tmp_path: Path, parent: Path, pruned: Path, words: Path) -> None:
    how = {"tokens": 40 * 64, "temperature": 2.0, "lr": 2e-3}
    run = recover(tmp_path / "run", pruned, words, teacher=parent, **how)
    first = Order(run.trainer.job.budget.windows, 0).windows_of(0, 4)
    batch = run.trainer.job.examples.train.read(first)
    models = [AutoModelForCausalLM.from_pretrained(path) for path in (parent, pruned)]
    p, q = (m(batch.inputs).logits.double().div(2).softmax(-1) for m in models)
    expected = 4 * (p * (p / q).log()).sum(-1).mean().item()
    assert run.rows[0]["kl"] == pytest.approx(expected, rel=1e-3)
    assert run.rows[-1]["kl"] < 0.9 * run.rows[0]["kl"]
    check_every_zero(run, pruned)


def test_the_best_adapters_are_published_beside_the_last(
    tmp_path: Path, pruned: Path, words: Path
) -> None:
    class Worse(RecoverTrainer):
        """Every validation after the second is worse."""

        def _validate(self) -> float:
            return abs(len(self.facts.valid) - 1.5)

    run = recover(tmp_path / "run", pruned, words, Worse, tokens=12 * 64, valid_every=2)
    assert run.found["best"] == (4, 0.5)
    best, last = load_all(run.output / "best"), run.weights
    assert all(torch.equal(best[name] == 0, last[name] == 0) for name in last)
    assert not torch.equal(
        *(weights["model.layers.0.mlp.up_proj.weight"] for weights in (best, last))
    )
    check_merged(run, pruned)
    assert run.trainer.merged_difference() < 1e-5


def test_the_scale_and_the_rank(tmp_path: Path, parent: Path, words: Path) -> None:
    run = recover(tmp_path / "run", parent, words, tokens=2 * 64, r=3, alpha=6.0)
    assert run.trainer.job.parameters.scale == 2.0
    shapes = run.trainer.job.shapes
    count = sum(weight.numel() for weight in run.trainer.adapters.values())
    assert count == run.trainer.job.adapter_parameters
    A = run.trainer.adapters["model.layers.0.self_attn.q_proj.lora_A"]
    assert A.shape == (3, shapes.hidden)
    assert A.abs().max() <= 1 / math.sqrt(shapes.hidden) + 0.1
