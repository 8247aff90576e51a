"""Windows that scores are measured on: from the first token on, side by side."""

import json
from pathlib import Path

import pytest
import torch

from espalier.data.text import Description, Reading
from espalier.data.windows import leading_windows
from espalier.errors import InputError
from espalier.models.tokenizer import load_tokenizer
from tests.tiny import tiny_llama, token_rows, tokenizer

pytestmark = pytest.mark.every_image

TEXTS = [f"the quick brown fox number {n} jumps over the lazy dog" for n in range(40)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"))


def cut(text: str, count: int, width: int) -> list[list[int]]:
    stream: list[int] = tokenizer()(text)["input_ids"]
    return [stream[i * width : (i + 1) * width] for i in range(count)]


def write(path: Path) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def test_of_a_text(tmp_path: Path, model: Path) -> None:
    source = tmp_path / "text.txt"
    source.write_text("\n".join(TEXTS))
    found = leading_windows(source, model, 3, 16)
    assert found.input_ids.tolist() == cut("\n".join(TEXTS), 3, 16)
    assert found.record["rule"] == "leading windows"
    assert (found.record["samples"], found.record["seqlen"]) == (3, 16)
    everything = leading_windows(source, model, 10_000, 16)
    assert everything.record["samples"] == len(tokenizer()("\n".join(TEXTS))["input_ids"]) // 16


def test_of_documents(tmp_path: Path, model: Path) -> None:
    found = leading_windows(write(tmp_path / "some.jsonl"), model, 5, 20)
    assert found.input_ids.tolist() == cut(" ".join(TEXTS), 5, 20)


@pytest.mark.parametrize(
    ("description", "join", "documents"),
    [
        (Description("d", calibration=Reading("train", "documents")), " ", None),
        (Description("d", calibration=Reading("train", "stream", "\n")), "\n", None),
        (Description("d", scores=Reading("train", "stream", "\n\n", documents=10)), "\n\n", 10),
    ],
)
def test_of_a_data_set(
    tmp_path: Path, model: Path, description: Description, join: str, documents: int | None
) -> None:
    write(tmp_path / "train.jsonl")
    description.write(tmp_path)
    found = leading_windows(tmp_path, model, 1000, 20)
    text = join.join(TEXTS[:documents])
    count = len(tokenizer()(text)["input_ids"]) // 20
    assert found.input_ids.tolist() == cut(text, count, 20)
    assert (found.record["split"], found.record["join"]) == ("train", join)
    assert Description.read(tmp_path) == description


def test_of_token_ids(tmp_path: Path, model: Path) -> None:
    rows = token_rows(tmp_path / "ids.safetensors", rows=8, width=64)
    whole = leading_windows(rows, model, 100, None).input_ids
    assert whole.shape == (8, 64)
    assert torch.equal(leading_windows(rows, model, 3, 10).input_ids, whole[:3, :10])
    with pytest.raises(InputError, match="its rows have 64 tokens; give SEQLEN=64 or less"):
        leading_windows(rows, model, 3, 65)


def test_a_short_text(tmp_path: Path, model: Path) -> None:
    source = tmp_path / "short.txt"
    source.write_text("the quick brown fox")
    with pytest.raises(InputError, match=r"is shorter than SEQLEN=128: it has \d+ tokens"):
        leading_windows(source, model, 3, None)


def test_a_tokenizer_that_transformers_5_has_written(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model")
    config = model / "tokenizer_config.json"
    changed = json.loads(config.read_text()) | {"tokenizer_class": "TokenizersBackend"}
    config.write_text(json.dumps(changed))
    assert load_tokenizer(model)(TEXTS[0])["input_ids"] == tokenizer()(TEXTS[0])["input_ids"]
