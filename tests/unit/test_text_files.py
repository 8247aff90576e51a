"""Documents of every kind of file, in order; what is broken is told with its place."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

from espalier.data.text_files import documents_of  # noqa: E402
from espalier.errors import InputError  # noqa: E402

TEXTS = ["a\u2028b", "", "line\nline"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_all_forms_give_the_same_documents(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("texts")
    lines = "\n\n".join(json.dumps({"words": text, "text": 1}) for text in texts).encode()
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    with pa.output_stream(str(folder / "a.jsonl.zst"), compression="zstd") as file:
        file.write(lines)
    table = pa.table({"words": pa.array(texts, pa.string()), "text": [1] * len(texts)})
    parquet.write_table(table, folder / "a.parquet")
    for file in folder.iterdir():
        assert list(documents_of(file, "words")) == texts


def test_a_txt_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo", encoding="utf-8")
    assert list(documents_of(tmp_path / "a.txt")) == ["one\n\ntwo"]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, suffix: str) -> None:
    lines = b'{"text": "a"}\n' * 3 + b'{"text": "' + bytes(range(97, 123)) * 9 + b'"}\n'
    whole = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        parquet.write_table(pa.table({"text": TEXTS}), whole)
    elif suffix == "jsonl.zst":
        whole.write_bytes(pa.compress(lines, codec="zstd", asbytes=True))
    else:
        whole.write_bytes(gzip.compress(lines) if suffix == "jsonl.gz" else lines)
    whole.write_bytes(whole.read_bytes()[:-12])
    with pytest.raises(InputError, match=rf"a\.{suffix}"):
        list(documents_of(whole))


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="document 1 is not text"):
        list(documents_of(tmp_path / "a.parquet"))
    with pytest.raises(InputError, match="has no column words"):
        list(documents_of(tmp_path / "a.parquet", "words"))
    for suffix, content in (("jsonl.gz", b"x" * 20), ("jsonl.zst", b"x" * 20)):
        (tmp_path / f"a.{suffix}").write_bytes(content)
        with pytest.raises(InputError, match="is not whole"):
            list(documents_of(tmp_path / f"a.{suffix}"))
