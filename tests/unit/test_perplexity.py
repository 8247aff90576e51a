"""Perplexity against closed forms, a brute force and the reference's figure."""

import math
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from espalier.data.text import Description, Reading  # noqa: E402
from espalier.errors import InputError  # noqa: E402
from eval.perplexity import cut_windows, perplexity, window_losses  # noqa: E402
from eval.windows import load_windows  # noqa: E402
from tests.tiny import tiny_llama, token_rows  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"))


def test_a_uniform_model_is_as_perplexed_as_its_vocabulary() -> None:
    windows = torch.randint(0, 50, (5, 9))
    losses = torch.cat(list(window_losses(lambda ids: torch.zeros(*ids.shape, 50), windows, 2)))
    measured = perplexity(losses, 9)
    assert measured.value == pytest.approx(50, rel=1e-6)
    assert (measured.windows, measured.tokens) == (5, 40)


def test_a_model_that_knows_the_text_is_not_perplexed() -> None:
    windows = torch.randint(0, 50, (3, 9))

    def oracle(ids: torch.Tensor) -> torch.Tensor:
        return 1000.0 * torch.nn.functional.one_hot(ids.roll(-1, dims=1), 50)

    losses = torch.cat(list(window_losses(oracle, windows, 8)))
    assert perplexity(losses, 9).value == pytest.approx(1)


@pytest.mark.parametrize(("batch", "step"), [(1, 1 << 26), (3, 288 * 5)])
def test_it_equals_the_brute_force(
    model: Path, batch: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.perplexity.LOGITS_IN_FLOAT", step)
    network = AutoModelForCausalLM.from_pretrained(model)
    windows = torch.randint(2, 288, (4, 17))
    means = []
    with torch.no_grad():
        for window in windows:
            chances = network(window[None]).logits[0].double().softmax(-1)
            means.append(-sum(math.log(chances[t, window[t + 1]]) for t in range(16)) / 16)
    losses = torch.cat(list(window_losses(lambda ids: network(ids).logits, windows, batch)))
    assert losses.tolist() == pytest.approx(means, rel=1e-5)
    assert perplexity(losses, 17).value == pytest.approx(math.exp(sum(means) / 4), rel=1e-5)


def test_a_ruined_model_gives_a_number() -> None:
    assert math.isfinite(perplexity(torch.tensor([1e5, 1e5], dtype=torch.float64), 4).value)


def test_the_tail_is_dropped() -> None:
    assert cut_windows(torch.arange(11), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_text_is_one_stream(model: Path, tmp_path: Path) -> None:
    text = "the quick brown fox " * 30
    (tmp_path / "a.txt").write_text(text)
    ids = AutoTokenizer.from_pretrained(model)(text)["input_ids"]
    found = load_windows(tmp_path / "a.txt", model, 32, None, None)
    assert found.windows.flatten().tolist() == ids[: len(ids) // 32 * 32]
    assert found.record["windows"] == len(ids) // 32
    assert found.record["stream_tokens"] == len(ids)
    assert len(load_windows(tmp_path / "a.txt", model, 32, None, 1).windows) == 1
    assert load_windows(tmp_path / "a.txt", model, None, None, None).windows.shape[1] == 128


def test_a_data_set_is_read_as_it_says(model: Path, tmp_path: Path) -> None:
    for split in ("test", "validation"):
        lines = "".join(f'{{"text": "{split} {i} the quick fox"}}\n' for i in range(30))
        (tmp_path / f"{split}.jsonl").write_text(lines)
    use = Reading("test", "stream", " ", documents=20, windows=3)
    Description("own", "s", "r", perplexity=use).write(tmp_path)
    found = load_windows(tmp_path, model, 16, None, None)
    assert len(found.windows) == found.record["windows_available"] == 3
    assert (found.name, found.record["split"], found.record["revision"]) == ("own", "test", "r")
    other = load_windows(tmp_path, model, 16, "validation", 2)
    assert len(other.windows) == 2
    assert other.record["split"] == "validation"
    assert other.record["sha256"] != found.record["sha256"]


def test_rows_of_ids_are_windows(model: Path, tmp_path: Path) -> None:
    source = token_rows(tmp_path / "ids.safetensors", rows=5, width=40)
    assert load_windows(source, model, None, None, None).windows.shape == (5, 40)
    assert load_windows(source, model, 8, None, 2).windows.shape == (2, 8)
    with pytest.raises(InputError, match="rows of 40"):
        load_windows(source, model, 41, None, None)


def test_a_short_text_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the fox")
    with pytest.raises(InputError, match="shorter than SEQLEN=64"):
        load_windows(tmp_path / "a.txt", model, 64, None, None)
    with pytest.raises(InputError, match="above the model's 128 positions"):
        load_windows(tmp_path / "a.txt", model, 256, None, None)


def test_the_references_perplexity(shared: Path) -> None:
    directory = shared / "models" / "stories260k"
    source = shared / "reference" / "stories260k" / "valid.safetensors"
    text = load_windows(source, directory, None, None, None)
    network = AutoModelForCausalLM.from_pretrained(directory)
    losses = torch.cat(list(window_losses(lambda ids: network(ids).logits, text.windows, 8)))
    measured = perplexity(losses, 256)
    assert (measured.windows, measured.tokens) == (64, 64 * 255)
    assert measured.value == pytest.approx(3.6654239429755533, rel=5e-3)
