"""Token data: what is written comes back by document and window; misfits are refused."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

np = pytest.importorskip("numpy")

from espalier.data.tokens.index import (  # noqa: E402
    SplitIndex,
    TokenIndex,
    narrowest,
    token_dtype,
)
from espalier.data.tokens.reader import TokenData  # noqa: E402
from espalier.data.tokens.writer import SplitWriter  # noqa: E402
from espalier.errors import InputError  # noqa: E402
from espalier.models.tokenizer import tokenizer_hash  # noqa: E402

IDS = st.lists(st.integers(0, 65_535), min_size=1, max_size=12)
DOCUMENTS = st.lists(IDS, min_size=1, max_size=12)
DTYPE = token_dtype("uint16")


def write(directory: Path, documents: list[list[int]], limit: int, tokenizer: str = "0") -> Path:
    """Token data of one split, `train`."""
    scratch = directory / "scratch"
    scratch.mkdir(parents=True)
    writer = SplitWriter(scratch, "train", DTYPE, limit)
    writer.append([np.asarray(document, DTYPE) for document in documents])
    train = writer.finish()
    writer.move(train, directory)
    TokenIndex(
        dtype="uint16",
        tokenizer=tokenizer,
        vocabulary=65_536,
        bos=None,
        eos=None,
        splits={"train": train, "valid": SplitIndex.of(())},
    ).write(directory)
    return directory


@given(DOCUMENTS, st.integers(1, 30), st.integers(1, 20))
def test_windows_are_slices_of_all_documents_in_a_row(
    documents: list[list[int]], limit: int, length: int
) -> None:
    row = [token for document in documents for token in document]
    begins = np.cumsum([0, *map(len, documents)])[:-1].tolist()
    with TemporaryDirectory() as folder:
        data = TokenData(write(Path(folder) / "data", documents, limit))
        data.verify()
        assert data.splits == ("train",)
        assert data.counts("train") == (len(row), len(documents))
        assert [document.tolist() for document in data.documents("train")] == documents
        assert data.windows("train", length) == len(row) // length
        for index in range(data.windows("train", length)):
            first, end = index * length, (index + 1) * length
            assert data.window("train", index, length).tolist() == row[first:end]
            inside = [begin - first for begin in begins if first <= begin < end]
            assert data.boundaries("train", index, length).tolist() == inside
        for beyond in (-1, len(row) // length):
            with pytest.raises(IndexError):
                data.window("train", beyond, length)


@given(DOCUMENTS, st.integers(1, 30))
def test_no_shard_is_larger_than_the_limit_unless_one_document_is(
    documents: list[list[int]], limit: int
) -> None:
    with TemporaryDirectory() as folder:
        data = TokenData(write(Path(folder) / "data", documents, limit))
        shards = data.index.splits["train"].shards
        assert all(shard.tokens <= limit or shard.documents == 1 for shard in shards)
        # greedy: the next shard's first document would not have fitted
        at = 0
        for shard in shards[:-1]:
            at += shard.documents
            assert shard.tokens + len(documents[at]) > limit
        assert [shard.name[-5:] for shard in shards] == [f"{len(shards):05d}"] * len(shards)


@given(DOCUMENTS, DOCUMENTS, DOCUMENTS, st.integers(1, 30))
def test_what_an_interrupted_run_wrote_after_its_place_is_cut_off(
    first: list[list[int]], lost: list[list[int]], rest: list[list[int]], limit: int
) -> None:
    def arrays(documents: list[list[int]]) -> list["np.ndarray"]:
        return [np.asarray(document, DTYPE) for document in documents]

    with TemporaryDirectory() as folder:
        whole = write(Path(folder) / "whole", first + rest, limit)
        scratch, target = Path(folder) / "scratch", Path(folder) / "resumed"
        scratch.mkdir()
        target.mkdir()
        writer = SplitWriter(scratch, "train", DTYPE, limit)
        writer.append(arrays(first))
        sizes = [size.model_copy() for size in writer.sizes]
        writer.append(arrays(lost))
        resumed = SplitWriter(scratch, "train", DTYPE, limit, sizes)
        resumed.append(arrays(rest))
        index = resumed.finish()
        resumed.move(index, target)
        assert index == TokenIndex.read(whole).splits["train"]
        for path in target.iterdir():
            assert path.read_bytes() == (whole / path.name).read_bytes()


def test_a_corrupted_shard_is_named(tmp_path: Path) -> None:
    data = write(tmp_path / "data", [[1, 2, 3], [4, 5], [6, 7, 8]], limit=4)
    tokens = data / "train-00001-of-00003.tokens"
    whole = tokens.read_bytes()
    tokens.write_bytes(whole[:-2] + b"\0\0")
    with pytest.raises(InputError, match=r"train-00001-of-00003\.tokens is not what"):
        TokenData(data).verify()
    tokens.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"train-00001-of-00003\.tokens is not what"):
        TokenData(data)
    tokens.write_bytes(whole)
    starts = data / "train-00000-of-00003.starts"
    starts.write_bytes(bytes(len(starts.read_bytes())))
    with pytest.raises(InputError, match=r"train-00000-of-00003\.starts is not what"):
        list(TokenData(data).documents("train"))
    starts.unlink()
    with pytest.raises(InputError, match=r"train-00000-of-00003\.starts is not what"):
        TokenData(data)


def test_an_index_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not token data"):
        TokenData(tmp_path)
    (tmp_path / "tokens.json").write_text('{"version": 2}')
    with pytest.raises(InputError, match="is not of version 1"):
        TokenData(tmp_path)


def test_a_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    data = TokenData(write(tmp_path / "data", [[1]], limit=4))
    assert data.windows("valid", 1) == 0
    assert list(data.documents("valid")) == []
    with pytest.raises(InputError, match=r"has no split test \(it has: train, valid\)"):
        data.windows("test", 1)


def test_a_model_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    one, other, none = (tmp_path / name for name in ("one", "other", "none"))
    for model in (one, other, none):
        model.mkdir()
    (one / "tokenizer.json").write_text("{}")
    (other / "tokenizer.json").write_text("[]")
    data = TokenData(write(tmp_path / "data", [[1]], 4, tokenizer_hash(one) or ""))
    data.require_fit(one, 65_536)
    with pytest.raises(InputError, match=r"has another \("):
        data.require_fit(other, 65_536)
    with pytest.raises(InputError, match="has no tokenizer"):
        data.require_fit(none, 65_536)


def test_ids_are_as_wide_as_the_vocabulary_needs() -> None:
    assert (narrowest(65_536), narrowest(65_537)) == ("uint16", "uint32")
    assert token_dtype("uint32").str == "<u4"
