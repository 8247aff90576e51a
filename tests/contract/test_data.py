"""`make data` on tiny texts: the same documents give the same bytes, however they come."""

import gzip
import json
import signal
import subprocess
from itertools import chain
from pathlib import Path

import pytest

pyarrow = pytest.importorskip("pyarrow")

from datasets import Dataset  # noqa: E402
from pyarrow import parquet  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from espalier.contract.manifest import MANIFEST, read_manifest  # noqa: E402
from espalier.data.token_ids import ModelLimits  # noqa: E402
from espalier.data.tokens.domains import domains_for  # noqa: E402
from espalier.data.tokens.reader import TokenData  # noqa: E402
from espalier.errors import InputError  # noqa: E402
from inputs.data.packing import Fractions  # noqa: E402
from inputs.export import tables  # noqa: E402
from tests.contract.command import command, espalier, quiet_environment, refused  # noqa: E402
from tests.contract.waiting import wait_for  # noqa: E402
from tests.tiny import SHAPE, tiny_llama, tokenizer  # noqa: E402

TEXTS = [f"The {number} quick brown foxes </s> jump.\nOver {number}." for number in range(60)]
SPLIT = ("VALID=0.2", "TEST=0.2", "SHARD=500")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("text") / "text.jsonl", TEXTS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model: Path, lines: Path) -> Path:
    return make(tmp_path_factory.mktemp("store"), lines, model, *SPLIT)


def write_lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def make(store: Path, text: Path, model: Path, *words: str) -> Path:
    done = espalier(store, "data", "DATA=d", f"SOURCE={text}", f"TOKENIZER={model}", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{store}/data/d\n"
    assert "tokens/s" in done.stderr
    return store / "data" / "d"


def token_files(directory: Path) -> dict[str, bytes]:
    """The files that are the data."""
    return {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if path.suffix in (".tokens", ".starts") or path.name == "tokens.json"
    }


def test_token_data_is_no_text(made: Path, model: Path) -> None:
    store = made.parent.parent
    done = espalier(store, "prune-wanda", f"MODEL={model}", "CALIBRATION=d", "SUITE=none")
    refused(done, 2, "d is token data that make data has packed, not a text")


def test_all_documents_are_there_between_bos_and_eos(made: Path, model: Path) -> None:
    data = TokenData(made)
    data.verify()
    data.require_fit(model, SHAPE["vocab_size"])
    found = [ids.tolist() for split in data.splits for ids in data.documents(split)]
    assert data.splits == ("train", "valid", "test")
    assert len(data.index.splits["train"].shards) > 1
    begin, end = SHAPE["bos_token_id"], SHAPE["eos_token_id"]
    assert all(ids[0] == begin and ids[-1] == end for ids in found)
    assert all(end not in ids[1:-1] for ids in found)  # what a text spells out is no EOS
    assert sorted(tokenizer().decode(ids[1:-1]) for ids in found) == sorted(TEXTS)
    record = read_manifest(made).data or {}
    assert record["documents"] == {split: data.counts(split)[1] for split in data.splits}
    assert record["tokenizer"] == data.index.tokenizer


def test_another_models_tokenizer_is_refused(made: Path, tmp_path: Path) -> None:
    other = tiny_llama(tmp_path / "other")
    changed = json.loads((other / "tokenizer.json").read_text()) | {"normalizer": None}
    changed["added_tokens"][0]["lstrip"] = True
    (other / "tokenizer.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match="make the data with TOKENIZER="):
        TokenData(made).require_fit(other, SHAPE["vocab_size"])


@pytest.mark.parametrize("form", ["jsonl.gz", "parquet", "txt", "mixed"])
def test_every_form_of_the_same_documents_gives_the_same_bytes(
    tmp_path: Path, made: Path, model: Path, lines: Path, form: str
) -> None:
    text = tmp_path / f"text.{form}"
    if form == "jsonl.gz":
        text.write_bytes(gzip.compress(lines.read_bytes()))
    elif form == "parquet":
        parquet.write_table(pyarrow.table({"text": TEXTS}), text, row_group_size=7)
    else:
        text.mkdir()
        cut = 0 if form == "mixed" else len(TEXTS)
        for number, document in enumerate(TEXTS[:cut]):
            (text / f"{number:02d}.txt").write_text(document)
        if form == "mixed":
            write_lines(text / "a.jsonl", TEXTS[:20])
            parquet.write_table(pyarrow.table({"text": TEXTS[20:]}), text / "b.parquet")
    assert token_files(make(tmp_path / "store", text, model, *SPLIT)) == token_files(made)


def test_the_order_of_documents_moves_none_to_another_split(
    tmp_path: Path, made: Path, model: Path
) -> None:
    text = write_lines(tmp_path / "text.jsonl", TEXTS[::-1])
    turned = TokenData(make(tmp_path / "store", text, model, *SPLIT))
    for split in turned.splits:
        assert [ids.tolist() for ids in turned.documents(split)][::-1] == [
            ids.tolist() for ids in TokenData(made).documents(split)
        ]


def test_tokens_bounds_the_training_tokens(tmp_path: Path, made: Path, model: Path) -> None:
    text = write_lines(tmp_path / "text.jsonl", TEXTS)
    data = TokenData(make(tmp_path / "store", text, model, *SPLIT, "TOKENS=0.3K"))
    whole = [ids.tolist() for ids in TokenData(made).documents("train")]
    part = [ids.tolist() for ids in data.documents("train")]
    assert part == whole[: len(part)]
    assert sum(map(len, part[:-1])) < 300 <= sum(map(len, part))


def test_more_tokens_than_there_are_is_refused(tmp_path: Path, model: Path, lines: Path) -> None:
    words = (f"SOURCE={lines}", f"TOKENIZER={model}", "DATA=d", "TOKENS=1M")
    done = espalier(tmp_path, "data", *words)
    refused(done, 2, "TOKENS=1000000 are more than the", "training tokens of the text")
    assert not list(tmp_path.glob(f"data/*/{MANIFEST}"))


def test_interrupted_and_resumed_is_as_whole(tmp_path: Path, model: Path) -> None:
    many = [f"{text} {number}" for number in range(750) for text in TEXTS]
    text = write_lines(tmp_path / "text.jsonl", many)
    words = ("VALID=0.1", "TEST=0.1", "SHARD=100K")
    whole = make(tmp_path / "whole", text, model, *words)
    store = tmp_path / "store"
    process = subprocess.Popen(
        command(store, "data", "DATA=d", f"SOURCE={text}", f"TOKENIZER={model}", *words),
        env=quiet_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(store, "data/d.partial-*/metrics.jsonl", process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert len(list(store.glob("data/d.partial-*/.run/scratch/train-*.tokens"))) >= 1
    done = json.loads(next(store.glob("data/d.partial-*/.run/scratch/place.json")).read_text())
    assert 0 < done["documents"] < len(many)
    assert token_files(make(store, text, model, *words)) == token_files(whole)
    assert len(TokenData(whole).index.splits["train"].shards) > 2
    again = [
        json.loads(line)["step"] for line in (store / "data/d/metrics.jsonl").open()
    ]  # of both runs: no block was packed twice but the one that was cut short
    assert len(again) <= len((whole / "metrics.jsonl").read_text().splitlines()) + 1


def test_an_export_as_arrow_is_mapped_by_datasets(made: Path, tmp_path: Path) -> None:
    rows = [ids.tolist() for ids in TokenData(made).documents("train")]
    target = tmp_path / "train.arrow"
    tables.write(target, TokenData(made).documents("train"), "its tokenizer")
    assert list(Dataset.from_file(str(target))["input_ids"]) == rows


def test_an_export_needs_token_data(made: Path) -> None:
    store = made.parent.parent
    refused(espalier(store, "export"), 2, "DATA= is not on the store")
    done = espalier(store, "export", "DATA=d", "FORMAT=csv")
    refused(done, 2, "FORMAT=csv", "'parquet', 'arrow', 'arrayrecord' or 'mds'")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"text": 3}\n', "a.jsonl, line 1 has text that is not text"),
        ("a.jsonl.gz", gzip.compress(bytes(range(250)), mtime=0)[:-20], "is not whole"),
        ("a.parquet", b"PAR1", "is not whole"),
        ("a.txt", b"\xff\xfe", "is not UTF-8 text"),
        ("a.jsonl", b'{"text": ""}\n', "no document of the text is for training"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(
    tmp_path: Path, model: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    done = espalier(
        tmp_path / "store", "data", f"SOURCE={tmp_path / name}", f"TOKENIZER={model}", "DATA=d"
    )
    refused(done, 2, says)


def test_a_folder_as_the_hub_has_it_keeps_its_splits(tmp_path: Path, model: Path) -> None:
    text = tmp_path / "text"
    (text / "data").mkdir(parents=True)
    parts = {"train-00000-of-00002": 0, "train-00001-of-00002": 20, "test-00000-of-00001": 40}
    for name, first in parts.items():
        table = pyarrow.table({"text": TEXTS[first : first + 20]})
        parquet.write_table(table, text / "data" / f"{name}.parquet")
    (text / "README.md").write_text("# A text")
    made = make(tmp_path / "store", text, model, "VALID=0.2")
    data = TokenData(made)
    found = {
        split: sorted(tokenizer().decode(ids[1:-1]) for ids in data.documents(split))
        for split in data.splits
    }
    assert found["test"] == sorted(TEXTS[40:])
    assert sorted(found["train"] + found["valid"]) == sorted(TEXTS[:40])
    notes = read_manifest(made).notes
    assert notes["files"] == {"test": 1, "train": 2}
    assert notes["files_left_out"] == ["README.md"]
    (text / "data" / "more.parquet").write_bytes(b"")
    words = (f"SOURCE={text}", f"TOKENIZER={model}", "DATA=e")
    done = espalier(tmp_path / "store", "data", *words)
    refused(done, 2, "data/more.parquet names no split where files beside it name train and test")


def test_bad_documents_are_refused_or_counted(tmp_path: Path, model: Path) -> None:
    text = write_lines(tmp_path / "text.jsonl", TEXTS)
    good = text.read_bytes()
    text.write_bytes(b'{"text": "\\ud83d"}\n' + good + b'{"text": "\xff"}\n{"words": "a"}\n')
    words = (f"SOURCE={text}", f"TOKENIZER={model}", "DATA=d", *SPLIT)
    done = espalier(tmp_path / "store", "data", *words)
    refused(done, 2, "text.jsonl, line 1 holds half of a surrogate pair", "SKIP_BAD=1")
    made = make(tmp_path / "store", text, model, *SPLIT, "SKIP_BAD=1")
    notes = read_manifest(made).notes
    assert notes["bad_documents"] == 3
    assert "line 1 holds half" in notes["first_bad_document"]
    text.write_bytes(good)
    assert token_files(make(tmp_path / "other", text, model, *SPLIT)) == token_files(made)


def test_each_folder_of_a_text_is_a_domain(tmp_path: Path, model: Path) -> None:
    text, store = tmp_path / "text", tmp_path / "store"
    for name, part in {"wiki": TEXTS[:30], "c4-rp": TEXTS[30:]}.items():
        (text / name).mkdir(parents=True)
        write_lines(text / name / "a.jsonl", part)
    words = ("data", f"SOURCE={text}", f"TOKENIZER={model}", "VALID=0.2")
    done = espalier(store, *words, "DOMAINS=1")
    assert done.returncode == 0, done.stderr
    made = store / "data" / "text-tiny-domains"
    assert done.stdout == f"{made}\n"
    found = domains_for(made, model, SHAPE["vocab_size"], ["wiki", "c4-rp"])
    documents = {
        name: {
            tokenizer().decode(ids[1:-1]) for split in data.splits for ids in data.documents(split)
        }
        for name, data in found.items()
    }
    assert documents == {"wiki": set(TEXTS[:30]), "c4-rp": set(TEXTS[30:])}
    manifest = read_manifest(made)
    assert {file.path for file in manifest.files} >= {"domains.json", "wiki/tokens.json"}
    assert (manifest.data or {})["documents"] == {
        split: sum(data.counts(split)[1] for data in found.values() if split in data.splits)
        for split in ("train", "valid", "test")
    }
    assert espalier(store, "verify", "CKPT=text-tiny-domains").returncode == 0
    for trainer in ("train-gpu", "train-tpu"):
        done = espalier(store, trainer, f"CKPT={model}", "DATA=text-tiny-domains")
        refused(done, 2, "is token data of several domains where one stream is needed")
    one = espalier(store, *words)  # what such a folder means without the word is one stream
    assert one.stdout == f"{store}/data/text-tiny\n"
    assert TokenData(store / "data" / "text-tiny").splits == ("train", "valid", "test")
    write_lines(text / "wiki.jsonl", TEXTS)
    done = espalier(store, *words, "DOMAINS=1", "DATA=other")
    refused(done, 2, "wiki and wiki.jsonl of", "would be one domain; rename one")


@pytest.mark.shared
def test_the_seven_domains_of_redpajama(tmp_path: Path, shared: Path) -> None:
    text, model = shared / "data" / "redpajama_sample", shared / "models" / "stories260k"
    made = make(tmp_path, text, model, "DOMAINS=1", "VALID=0.41", "TEST=0")
    found = domains_for(made, model, ModelLimits.of(model).vocabulary)
    names = ["arxiv", "book", "c4-rp", "cc", "github", "stackexchange", "wiki"]
    assert list(found) == names
    own = AutoTokenizer.from_pretrained(model)
    for name, data in found.items():
        lines = chain.from_iterable(path.open() for path in sorted((text / name).iterdir()))
        texts = (json.loads(line)["text"] for line in lines)
        training = (one for one in texts if Fractions(0.41, 0).split_of(one) == "train")
        for ids in data.documents("train"):
            wanted = own(next(training), add_special_tokens=False)["input_ids"]
            assert ids.tolist() == [own.bos_token_id, *wanted, own.eos_token_id]
        assert next(training, None) is None
        assert data.counts("valid")[1] > 0


def test_a_hub_id_is_fetched_first(tmp_path: Path) -> None:
    done = espalier(tmp_path, "data", "SOURCE=org/text-1.0", "FILES=2", "DRY_RUN=1")
    assert done.returncode == 0, done.stderr
    assert "DATA=org/text-1.0 FILES=2" in done.stdout
    assert done.stdout.endswith(f"{tmp_path}/data/org--text-1.0-sapling\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("TOKENS=many",), "TOKENS=many"),
        (("VALID=0.5", "TEST=0.5"), "leave nothing for training"),
        (("DATA=pydoc",), "DATA=pydoc is the text's name already"),
        (("SOURCE=./nowhere.jsonl",), "does not exist"),
        (("SEED=1",), "SEED is not a parameter here"),
    ],
)
def test_mistakes_are_told_in_a_sentence(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    store = tmp_path / "store"
    refused(espalier(store, "data", *words), 2, says)
    assert not store.exists()
