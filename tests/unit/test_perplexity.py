"""Perplexity against closed forms, a brute force and the reference's figure."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from espalier.contract.discovery import stage_named  # noqa: E402
from espalier.data.text import Description, Reading  # noqa: E402
from espalier.errors import InputError  # noqa: E402
from eval.perplexity import perplexity  # noqa: E402
from eval.spec import TorchEvalParameters  # noqa: E402
from eval.suites.suite import SUITES, Bounds  # noqa: E402
from eval.window_losses import Forward, window_losses  # noqa: E402
from eval.windows import cut_windows, load_windows  # noqa: E402
from tests.tiny import tiny_llama, token_rows  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"))


def losses_of(forward: Forward, windows: torch.Tensor, batch: int) -> Any:
    """Of each window, as numpy has them."""
    return torch.cat(list(window_losses(forward, windows.split(batch)))).numpy()


def test_a_uniform_model_is_as_perplexed_as_its_vocabulary() -> None:
    windows = torch.randint(0, 50, (5, 9))
    losses = losses_of(lambda ids: torch.zeros(*ids.shape, 50), windows, 2)
    measured = perplexity(losses, 9)
    assert measured.value == pytest.approx(50, rel=1e-6)
    assert (measured.windows, measured.tokens) == (5, 40)


def test_a_model_that_knows_the_text_is_not_perplexed() -> None:
    windows = torch.randint(0, 50, (3, 9))

    def oracle(ids: torch.Tensor) -> torch.Tensor:
        return 1000.0 * torch.nn.functional.one_hot(ids.roll(-1, dims=1), 50)

    losses = losses_of(oracle, windows, 8)
    assert perplexity(losses, 9).value == pytest.approx(1)


@pytest.mark.parametrize(("batch", "step"), [(1, 1 << 26), (3, 288 * 5)])
def test_it_equals_the_brute_force(
    model: Path, batch: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.window_losses.LOGITS_IN_FLOAT", step)
    network = AutoModelForCausalLM.from_pretrained(model)
    windows = torch.randint(2, 288, (4, 17))
    means = []
    with torch.no_grad():
        for window in windows:
            chances = network(window[None]).logits[0].double().softmax(-1)
            means.append(-sum(math.log(chances[t, window[t + 1]]) for t in range(16)) / 16)
    losses = losses_of(lambda ids: network(ids).logits, windows, batch)
    assert losses.tolist() == pytest.approx(means, rel=1e-5)
    assert perplexity(losses, 17).value == pytest.approx(math.exp(sum(means) / 4), rel=1e-5)


def test_a_ruined_model_gives_a_number() -> None:
    assert math.isfinite(perplexity(np.array([1e5, 1e5]), 4).value)


def test_the_tail_is_dropped() -> None:
    assert cut_windows(np.arange(11), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_text_is_one_stream(model: Path, tmp_path: Path) -> None:
    text = "the quick brown fox " * 30
    (tmp_path / "a.txt").write_text(text)
    ids = AutoTokenizer.from_pretrained(model)(text)["input_ids"]
    found = load_windows(tmp_path / "a.txt", model, 32, None)
    assert found.windows.flatten().tolist() == ids[: len(ids) // 32 * 32]
    assert found.record["windows"] == len(ids) // 32
    assert found.record["stream_tokens"] == len(ids)
    assert len(load_windows(tmp_path / "a.txt", model, 32, None, Bounds(1)).windows) == 1
    assert load_windows(tmp_path / "a.txt", model, None, None).windows.shape[1] == 128


@given(st.integers(2, 131_072), st.integers(1, 5000))
def test_quick_is_bounded_by_tokens(seqlen: int, available: int) -> None:
    bounds = SUITES["quick"].bounds
    count = bounds.count(available, seqlen)
    assert 1 <= count <= min(available, 64)
    assert count == 1 or count * seqlen <= 32_768
    # Nothing that fits was left out, so short windows are as they always were.
    assert count in (available, 64) or (count + 1) * seqlen > 32_768
    if seqlen <= 512:
        assert count == min(available, 64)
    assert bounds.limited(3).count(available, seqlen) == min(count, 3)


def test_a_quick_window_of_a_long_model_is_short(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model", max_position_embeddings=1 << 16)
    (tmp_path / "a.txt").write_text("the quick brown fox jumps over the lazy dog " * 9000)
    quick = SUITES["quick"].bounds
    found = load_windows(tmp_path / "a.txt", model, None, None, quick)
    assert found.windows.shape == (16, 2048)
    long = load_windows(tmp_path / "a.txt", model, 8192, None, quick)
    assert long.windows.shape == (4, 8192)
    whole = load_windows(tmp_path / "a.txt", model, None, None, SUITES["perplexity"].bounds)
    assert whole.windows.shape[1] == 8192
    assert len(whole.windows) == whole.record["windows_available"] > 4


# Seconds of a processor that whole commands took, half of which two quiet cores take: `quick` on
# WikiText-2's test split, bfloat16, two threads.
MEASURED = {
    (128, 352, 4, 4, 4, 2048): 11.7,
    (288, 768, 6, 6, 6, 32000): 34.9,
    (576, 1536, 30, 9, 3, 49152): 162.4,
}


@pytest.mark.parametrize("shape", MEASURED)
def test_the_time_of_quick_is_about_as_measured(shape: tuple[int, ...]) -> None:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names = (*names, "num_key_value_heads", "vocab_size")
    config = dict(zip(names, shape, strict=True), dtype="bfloat16", tie_word_embeddings=True)
    config |= {"max_position_embeddings": 8192}
    estimate = stage_named("eval").estimate
    assert estimate
    told = estimate(TorchEvalParameters(), config)
    assert told
    alone = (MEASURED[shape] - START) / 2 + START  # one core starts a command
    assert alone / 1.5 < told.seconds < alone * 1.5
    longer = estimate(TorchEvalParameters(), config | {"max_position_embeddings": 131_072})
    assert longer == told  # whatever windows the model could take
    whole = estimate(TorchEvalParameters(suite="perplexity"), config)
    assert whole
    assert whole.seconds > told.seconds


START = 8.0


def test_a_data_set_is_read_as_it_says(model: Path, tmp_path: Path) -> None:
    for split in ("test", "validation"):
        lines = "".join(f'{{"text": "{split} {i} the quick fox"}}\n' for i in range(30))
        (tmp_path / f"{split}.jsonl").write_text(lines)
    use = Reading("test", "stream", " ", documents=20, windows=3)
    Description("own", "s", "r", perplexity=use).write(tmp_path)
    found = load_windows(tmp_path, model, 16, None)
    assert len(found.windows) == found.record["windows_available"] == 3
    assert (found.name, found.record["split"], found.record["revision"]) == ("own", "test", "r")
    other = load_windows(tmp_path, model, 16, "validation", Bounds(2))
    assert len(other.windows) == 2
    assert other.record["split"] == "validation"
    assert other.record["sha256"] != found.record["sha256"]


def test_rows_of_ids_are_windows(model: Path, tmp_path: Path) -> None:
    source = token_rows(tmp_path / "ids.safetensors", rows=5, width=40)
    assert load_windows(source, model, None, None).windows.shape == (5, 40)
    assert load_windows(source, model, 8, None, Bounds(2)).windows.shape == (2, 8)
    with pytest.raises(InputError, match="rows of 40"):
        load_windows(source, model, 41, None)


def test_a_short_text_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the fox")
    with pytest.raises(InputError, match="shorter than SEQLEN=64"):
        load_windows(tmp_path / "a.txt", model, 64, None)
    with pytest.raises(InputError, match="above the model's 128 positions"):
        load_windows(tmp_path / "a.txt", model, 256, None)


def test_the_references_perplexity(shared: Path) -> None:
    directory = shared / "models" / "stories260k"
    source = shared / "reference" / "stories260k" / "valid.safetensors"
    text = load_windows(source, directory, None, None)
    network = AutoModelForCausalLM.from_pretrained(directory)
    windows = torch.from_numpy(text.windows)
    losses = losses_of(lambda ids: network(ids).logits, windows, 8)
    measured = perplexity(losses, 256)
    assert (measured.windows, measured.tokens) == (64, 64 * 255)
    assert measured.value == pytest.approx(3.6654239429755533, rel=5e-3)
