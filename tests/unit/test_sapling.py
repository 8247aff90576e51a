"""Sapling: its text, its tokenizer, its schedule, and the same bytes twice."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from espalier.contract.files import file_sha256  # noqa: E402
from espalier.contract.manifest import content_files  # noqa: E402
from espalier.contract.progress import Progress  # noqa: E402
from espalier.contract.stage import Outcome, StageContext  # noqa: E402
from espalier.data.calibration import load_calibration  # noqa: E402
from espalier.data.formats import SPLITS  # noqa: E402
from espalier.data.text import Description, Documents  # noqa: E402
from inputs.sapling import corpus, stage  # noqa: E402
from inputs.sapling.spec import CorpusParameters, GrowParameters  # noqa: E402
from inputs.sapling.tokenizer import END_ID, VOCABULARY, train_tokenizer  # noqa: E402


def context(folder: Path, **inputs: Path) -> StageContext:
    (folder / "out").mkdir(parents=True)
    (folder / "scratch").mkdir()
    return StageContext(inputs, folder / "out", folder / "scratch", "cpu", Progress())


@pytest.fixture(scope="module")
def pydoc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = context(tmp_path_factory.mktemp("pydoc"))
    corpus.run(given, CorpusParameters())
    return given.output


def grow(folder: Path, data: Path, steps: int = 3) -> tuple[Path, Outcome]:
    given = context(folder, data=data)
    return given.output, stage.run(given, GrowParameters(steps=steps))


@pytest.fixture(scope="module")
def sapling(tmp_path_factory: pytest.TempPathFactory, pydoc: Path) -> Path:
    return grow(tmp_path_factory.mktemp("sapling"), pydoc)[0]


def test_the_text_is_split_without_leaks(pydoc: Path, tmp_path: Path) -> None:
    texts = {split: list(Documents(pydoc / f"{split}.jsonl")) for split in SPLITS}
    assert all(len(documents) >= 10 for documents in texts.values())
    paragraphs = {
        split: {" ".join(p.split()) for text in documents for p in text.split("\n\n")}
        for split, documents in texts.items()
    }
    shared = (paragraphs["train"] & paragraphs["test"]) | (
        paragraphs["train"] & paragraphs["validation"]
    )
    assert all(len(paragraph) < corpus.REPEATED_CHARACTERS for paragraph in shared)
    assert Description.read(pydoc).calibration.split == "validation"
    again = context(tmp_path)
    corpus.run(again, CorpusParameters())
    for path in pydoc.iterdir():
        assert file_sha256(path) == file_sha256(again.output / path.name), path.name


def test_topics_do_not_depend_on_their_order() -> None:
    topics = {"b": "two  \n\n\n\nthree", "a": "one\r\nline"}
    texts = list(corpus.documents(topics))
    assert texts == ["one\nline", "two\n\nthree"]
    assert texts == list(corpus.documents(dict(sorted(topics.items()))))


@settings(max_examples=25, deadline=None)
@given(st.text())
def test_the_tokenizer_gives_every_text_back(text: str) -> None:
    tokenizer = train_tokenizer(["the quick brown fox"])
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_stock_transformers_reads_it(sapling: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(sapling)
    tokenizer = AutoTokenizer.from_pretrained(sapling)
    config = json.loads((sapling / "config.json").read_text())
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 2e6
    assert (config["rope_theta"], config["torch_dtype"]) == (10000.0, "float32")
    assert config["num_attention_heads"] == 2 * config["num_key_value_heads"]
    assert len(tokenizer) == config["vocab_size"] == VOCABULARY
    ids = tokenizer("def f():\n    return 1")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == config["bos_token_id"]
    assert tokenizer.eos_token_id == config["eos_token_id"] == END_ID
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_it_grows_to_the_same_bytes_on_any_number_of_threads(
    sapling: Path, pydoc: Path, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3 - min(before, 2))
    try:
        again, outcome = grow(tmp_path, pydoc)
    finally:
        torch.set_num_threads(before)
    names = [path.name for path in content_files(again)]
    assert names == [path.name for path in content_files(sapling)]
    for name in names:
        assert file_sha256(again / name) == file_sha256(sapling / name), name
    assert not torch.are_deterministic_algorithms_enabled()
    assert outcome.data is not None
    assert outcome.data["tokens_seen"] == 3 * stage.TOKENS


def test_its_own_text_calibrates_it(sapling: Path, pydoc: Path) -> None:
    assert load_calibration(pydoc, sapling, 4, None, 0).input_ids.shape == (4, stage.POSITIONS)
