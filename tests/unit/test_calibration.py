"""Calibration windows against an independent computation of the same draws."""

import gzip
import json
import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from espalier.data.calibration import load_calibration  # noqa: E402
from espalier.data.text import Description, Reading  # noqa: E402
from espalier.data.token_ids import sha256_of_ids  # noqa: E402
from espalier.errors import InputError  # noqa: E402
from tests.tiny import tiny_llama, token_rows  # noqa: E402

WORDS = ["quick", "brown", "fox", "jumps", "over", "lazy", "dog", "and", "then", "sleeps"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"))


def documents(count: int = 12, seed: int = 1) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 40))) for _ in range(count)]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def naive_document_draws(
    texts: list[str], model: Path, samples: int, seqlen: int, seed: int
) -> list[list[int]]:
    """C4's rule, step by step, with Python's global generator."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    random.seed(seed)
    windows = []
    for _ in range(samples):
        while True:
            ids = tokenizer(texts[random.randint(0, len(texts) - 1)])["input_ids"]
            if len(ids) > seqlen:
                break
        start = random.randint(0, len(ids) - seqlen - 1)
        windows.append(ids[start : start + seqlen])
    return windows


@pytest.mark.parametrize(("seqlen", "seed"), [(16, 0), (33, 7)])
def test_documents_are_drawn_by_c4s_rule(
    model: Path, tmp_path: Path, seqlen: int, seed: int
) -> None:
    texts = documents()
    source = write_jsonl(tmp_path / "text.jsonl", texts)
    found = load_calibration(source, model, 9, seqlen, seed)
    assert found.input_ids.tolist() == naive_document_draws(texts, model, 9, seqlen, seed)
    assert found.input_ids.dtype == torch.int64
    assert found.record["sha256"] == sha256_of_ids(found.input_ids.numpy())
    assert (found.record["rule"], found.record["tokens"]) == ("documents", 9 * seqlen)


def test_a_large_set_is_drawn_the_same_without_measuring_it_first(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("espalier.data.calibration.FEW_DOCUMENTS", 0)
    texts = documents(30)
    source = write_jsonl(tmp_path / "text.jsonl", texts)
    found = load_calibration(source, model, 5, 40, 3)
    assert found.input_ids.tolist() == naive_document_draws(texts, model, 5, 40, 3)


def test_a_stream_is_drawn_by_one_offset_a_window(model: Path, tmp_path: Path) -> None:
    text = " ".join(documents())
    source = tmp_path / "text.txt"
    source.write_text(text)
    ids = AutoTokenizer.from_pretrained(model)(text)["input_ids"]
    random.seed(5)
    starts = [random.randint(0, len(ids) - 24 - 1) for _ in range(6)]
    found = load_calibration(source, model, 6, 24, 5)
    assert found.input_ids.tolist() == [ids[s : s + 24] for s in starts]


def test_a_data_set_says_its_split_and_rule(model: Path, tmp_path: Path) -> None:
    texts = documents()
    write_jsonl(tmp_path / "validation.jsonl", texts)
    Description("own", "made up", "1", Reading("validation", "stream", " ")).write(tmp_path)
    plain = tmp_path / "joined.txt"
    plain.write_text(" ".join(texts))
    found = load_calibration(tmp_path, model, 4, 20, 0)
    assert found.input_ids.tolist() == load_calibration(plain, model, 4, 20, 0).input_ids.tolist()
    assert found.record["split"] == "validation"
    assert found.record["revision"] == "1"


def test_the_window_defaults_to_the_models_positions(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "text.txt"
    source.write_text(" ".join(documents(40)))
    assert load_calibration(source, model, 2, None, 0).input_ids.shape == (2, 128)


def test_ready_ids_are_used_as_they_are(model: Path, tmp_path: Path) -> None:
    source = token_rows(tmp_path / "ids.safetensors", rows=8, width=64)
    whole = load_calibration(source, model, 128, None, 0)
    assert whole.input_ids.shape == (8, 64)
    part = load_calibration(source, model, 3, 10, 99)
    assert part.input_ids.tolist() == whole.input_ids[:3, :10].tolist()


def refusal(source: Path, model: Path, seqlen: int | None) -> str:
    with pytest.raises(InputError) as error:
        load_calibration(source, model, 4, seqlen, 0)
    return str(error.value)


def test_refusals_say_what_to_do(model: Path, tmp_path: Path) -> None:
    short = write_jsonl(tmp_path / "short.jsonl", ["quick brown", "fox"])
    longest = len(AutoTokenizer.from_pretrained(model)("quick brown")["input_ids"])
    assert f"shorter than SEQLEN=100: its longest document has {longest}" in refusal(
        short, model, 100
    )
    assert "above the model's 128 positions" in refusal(short, model, 129)
    (tmp_path / "short.txt").write_text("quick")
    assert "shorter than SEQLEN=100" in refusal(tmp_path / "short.txt", model, 100)
    ids = token_rows(tmp_path / "ids.safetensors", width=64)
    assert "its rows have 64 tokens" in refusal(ids, model, 65)
    save_file({"input_ids": torch.full((1, 4), 288)}, tmp_path / "high.safetensors")
    assert "vocabulary ends at 287" in refusal(tmp_path / "high.safetensors", model, None)
    save_file({"ids": torch.zeros(1, 4)}, tmp_path / "none.safetensors")
    assert "holds no input_ids" in refusal(tmp_path / "none.safetensors", model, None)
    (tmp_path / "cut.safetensors").write_bytes(ids.read_bytes()[:-9])
    assert "not a whole .safetensors" in refusal(tmp_path / "cut.safetensors", model, None)
    assert "does not exist" in refusal(tmp_path / "absent.txt", model, None)


def test_an_unlucky_draw_ends(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("espalier.data.calibration.FEW_DOCUMENTS", 0)
    monkeypatch.setattr("espalier.data.calibration.MAX_REJECTIONS", 20)
    source = write_jsonl(tmp_path / "short.jsonl", ["quick brown", "fox"])
    assert "of 20 drawn documents" in refusal(source, model, 100)


def test_the_reference_calibration_reads_whole(shared: Path) -> None:
    source = shared / "reference" / "stories260k" / "calibration.safetensors"
    found = load_calibration(source, shared / "models" / "stories260k", 128, None, 0)
    assert found.input_ids.shape == (32, 256)


@pytest.mark.parametrize(
    ("dtype", "shown"),
    [(torch.bool, "BOOL"), (torch.float, "F32"), (torch.half, "F16"), (torch.bfloat16, "BF16")],
)
def test_ids_that_are_no_whole_numbers_are_refused(
    model: Path, tmp_path: Path, dtype: torch.dtype, shown: str
) -> None:
    save_file({"input_ids": torch.ones(2, 4, dtype=dtype)}, tmp_path / "ids.safetensors")
    assert f"input_ids is {shown} [2, 4]" in refusal(tmp_path / "ids.safetensors", model, None)


@pytest.mark.parametrize("wrong", [-1, 288, 2**40])
def test_an_id_beyond_the_vocabulary_is_told_with_its_place(
    model: Path, tmp_path: Path, wrong: int
) -> None:
    ids = torch.full((3, 8), 5)
    ids[1, 6] = wrong
    save_file({"input_ids": ids}, tmp_path / "ids.safetensors")
    said = refusal(tmp_path / "ids.safetensors", model, None)
    assert f"token id {wrong} (row 2, token 7)" in said


def test_a_mask_is_refused_where_it_leaves_out_tokens(model: Path, tmp_path: Path) -> None:
    source, ids = tmp_path / "ids.safetensors", torch.full((3, 8), 5)
    mask = torch.ones(3, 8, dtype=torch.int32)
    save_file({"input_ids": ids, "attention_mask": mask}, source)
    assert load_calibration(source, model, 3, None, 0).input_ids.tolist() == ids.tolist()
    mask[2, 5:] = 0
    for dtype in (torch.int32, torch.bool, torch.float32):
        save_file({"input_ids": ids, "attention_mask": mask.to(dtype)}, source)
        assert "leaves out tokens (the first: row 3, token 6)" in refusal(source, model, None)
    save_file({"input_ids": ids, "attention_mask": torch.ones(3, 7)}, source)
    assert "attention_mask is [3, 7] where input_ids is [3, 8]" in refusal(source, model, None)


def test_a_byte_order_mark_is_no_text(model: Path, tmp_path: Path) -> None:
    text = " ".join(documents())
    (tmp_path / "plain.txt").write_text(text, encoding="utf-8")
    (tmp_path / "marked.txt").write_text(text, encoding="utf-8-sig")
    lines = write_jsonl(tmp_path / "plain.jsonl", documents()).read_bytes()
    (tmp_path / "marked.jsonl").write_bytes(b"\xef\xbb\xbf" + lines)
    for form in ("txt", "jsonl"):
        plain, marked = (
            load_calibration(tmp_path / f"{name}.{form}", model, 4, 16, 0)
            for name in ("plain", "marked")
        )
        assert plain.record["sha256"] == marked.record["sha256"]


def test_every_form_and_folder_gives_the_same_windows(model: Path, tmp_path: Path) -> None:
    texts = documents()
    lines = write_jsonl(tmp_path / "text.jsonl", texts).read_bytes()
    (tmp_path / "text.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "text.json").write_text(json.dumps([{"text": text} for text in texts]))
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    (tmp_path / "hub" / "README.md").touch()
    write_jsonl(folder / "train-00000-of-00002.jsonl", texts[:5])
    write_jsonl(folder / "train-00001-of-00002.jsonl", texts[5:])
    write_jsonl(folder / "test-00000-of-00001.jsonl", ["never"])
    sources = [tmp_path / "text.jsonl", tmp_path / "text.jsonl.gz", tmp_path / "text.json"]
    found = [
        load_calibration(source, model, 4, 16, 0).record["sha256"]
        for source in [*sources, tmp_path / "hub"]
    ]
    assert len(set(found)) == 1


def test_a_file_that_is_not_whole_is_refused(model: Path, tmp_path: Path) -> None:
    lines = write_jsonl(tmp_path / "text.jsonl", documents()).read_bytes()
    for name, content in (("cut", gzip.compress(lines)[:-30]), ("plain", lines)):
        source = tmp_path / f"{name}.jsonl.gz"
        source.write_bytes(content)
        assert "is not whole" in refusal(source, model, 16)
        assert "copy or fetch it again" in refusal(source, model, 16)
