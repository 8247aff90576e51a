"""Splits by a document's hash, frames and blocks."""

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

np = pytest.importorskip("numpy")

from espalier.data.tokenizing import Frame  # noqa: E402
from espalier.errors import InputError  # noqa: E402
from inputs.data.packing import Fractions, blocks, until_enough  # noqa: E402
from inputs.data.source import TextPart, parts_of  # noqa: E402

TEXTS = [f"document {number}" for number in range(20_000)]


@pytest.mark.parametrize(("valid", "test"), [(0.005, 0.005), (0.1, 0.2), (0, 0.5), (0, 0)])
def test_splits_have_about_their_fractions(valid: float, test: float) -> None:
    counts = Counter(map(Fractions(valid, test).split_of, TEXTS))
    for split, fraction in (("valid", valid), ("test", test), ("train", 1 - valid - test)):
        deviation = (len(TEXTS) * fraction * (1 - fraction)) ** 0.5
        assert abs(counts[split] - len(TEXTS) * fraction) <= 4 * deviation  # type: ignore[index]


def test_one_fraction_does_not_move_the_others_documents() -> None:
    few, more = Fractions(0.1, 0.1), Fractions(0.3, 0.1)
    assert {t for t in TEXTS if few.split_of(t) == "test"} == {
        t for t in TEXTS if more.split_of(t) == "test"
    }
    assert {t for t in TEXTS if few.split_of(t) == "valid"} < {
        t for t in TEXTS if more.split_of(t) == "valid"
    }


@given(st.lists(st.text(), max_size=20), st.integers(1, 5), st.integers(1, 40), st.randoms())
def test_a_documents_split_depends_on_nothing_around_it(
    texts: list[str], documents: int, characters: int, draw: random.Random
) -> None:
    fractions = Fractions(0.3, 0.3)
    alone = {text: fractions.split_of(text) for text in texts}
    shuffled = draw.sample(texts, len(texts))
    cut = list(blocks(shuffled, documents, characters))
    assert [text for block in cut for text in block] == shuffled
    assert all(fractions.split_of(text) == alone[text] for block in cut for text in block)


@given(st.lists(st.text(max_size=9), max_size=20), st.integers(1, 5), st.integers(1, 40))
def test_blocks_end_where_they_are_full(texts: list[str], documents: int, characters: int) -> None:
    for block in blocks(texts, documents, characters):
        assert 1 <= len(block) <= documents
        assert sum(map(len, block[:-1])) < characters


def test_a_frame_stands_around_a_document() -> None:
    assert Frame(0, 1, np.dtype("<u2")).around([5, 6]).tolist() == [0, 5, 6, 1]
    assert Frame(None, 1, np.dtype("<u2")).around([5]).tolist() == [5, 1]
    with pytest.raises(OverflowError):  # never a silent wrap
        Frame(None, None, np.dtype("<u2")).around([65_536])


def test_what_ends_documents_is_in_none() -> None:
    frame = Frame(0, 1, np.dtype("<u2"))
    assert frame.without([5, 1, 6, 0]) == [5, 6]
    assert Frame(None, None, np.dtype("<u2")).without([0, 1]) == [0, 1]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 60))
def test_the_fewest_documents_that_are_enough(lengths: list[int], tokens: int) -> None:
    count = until_enough(lengths, tokens)
    assert sum(lengths[:count]) >= tokens or count == len(lengths)
    assert sum(lengths[: count - 1]) < tokens


def test_a_data_sets_own_held_out_documents_are_used(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").touch()
    assert parts_of(tmp_path) == (
        TextPart(tmp_path / "test.jsonl", "test"),
        TextPart(tmp_path / "train.jsonl"),
    )


def test_of_a_folder_all_that_can_be_read_counts(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in (
        "b/a.txt",
        "c.parquet",
        "a.jsonl.gz",
        "README.md",
        ".gitattributes",
        "manifest.json",
        "metrics.jsonl",
    ):
        (tmp_path / name).touch()
    assert [part.file.name for part in parts_of(tmp_path)] == ["a.jsonl.gz", "a.txt", "c.parquet"]
    assert parts_of(tmp_path / "c.parquet") == (TextPart(tmp_path / "c.parquet"),)
    (tmp_path / "notes.md").touch()
    for text in (tmp_path, tmp_path / "notes.md"):
        with pytest.raises(InputError, match=r"notes\.md cannot be read as text"):
            parts_of(text)
    (tmp_path / "b" / "a.txt").unlink()
    with pytest.raises(InputError, match="holds no text"):
        parts_of(tmp_path / "b")
