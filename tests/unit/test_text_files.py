"""Documents of every kind of file, in order; what is broken is told with its place."""

import codecs
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

from espalier.data.formats import FORMATS  # noqa: E402
from espalier.data.text_files import BadDocument, documents_of, entries_of, rows_of  # noqa: E402
from espalier.errors import InputError  # noqa: E402

pytestmark = pytest.mark.every_image

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".zst": lambda content: bytes(pa.compress(content, codec="zstd", asbytes=True)),
}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_all_forms_give_the_same_documents(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("texts")
    rows = [{"words": text, "text": 1} for text in texts]
    lines = "\n\n".join(map(json.dumps, rows)).encode()
    for packed, pack in PACK.items():
        (folder / f"a.jsonl{packed}").write_bytes(pack(lines))
        (folder / f"lines.json{packed}").write_bytes(pack(codecs.BOM_UTF8 + lines))
        (folder / f"array.json{packed}").write_bytes(pack(json.dumps(rows).encode()))
    table = pa.table({"words": pa.array(texts, pa.string()), "text": [1] * len(texts)})
    parquet.write_table(table, folder / "a.parquet")
    for file in folder.iterdir():
        assert list(documents_of(file, "words")) == texts


@pytest.mark.parametrize("packed", PACK)
def test_a_txt_is_one_document_without_its_mark(tmp_path: Path, packed: str) -> None:
    file = tmp_path / f"a.txt{packed}"
    file.write_bytes(PACK[packed](codecs.BOM_UTF8 + b"one\r\n\ntwo\r\xe2\x80\xa8"))
    assert list(documents_of(file)) == ["one\n\ntwo\n\u2028"]


@pytest.mark.parametrize("form", [form for form in FORMATS if form not in (".txt", ".json")])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, form: str) -> None:
    whole = tmp_path / f"a{form}"
    lines = b'{"text": "a"}\n' * 3 + b'{"text": "' + bytes(range(97, 123)) * 9 + b'"}\n'
    if form == ".parquet":
        parquet.write_table(pa.table({"text": ["a", "b"]}), whole)
    else:
        pack = next(
            (pack for packed, pack in PACK.items() if packed and form.endswith(packed)), bytes
        )
        whole.write_bytes(pack(lines))
    content = whole.read_bytes()
    for cut in (12, len(content) - 5, len(content)):
        whole.write_bytes(content[:-cut])
        with pytest.raises(InputError) as caught:
            list(documents_of(whole))
        assert f"a{form}" in str(caught.value)
        if form != ".jsonl":
            assert "is not whole" in str(caught.value)
            assert "copy or fetch it again" in str(caught.value)


def test_damage_inside_a_parquet_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": [f"words {n}" * 9 for n in range(99)]}), file)
    content = bytearray(file.read_bytes())
    content[20:200] = bytes(180)
    file.write_bytes(content)
    with pytest.raises(InputError, match="is not whole"):
        list(documents_of(file))


@pytest.mark.parametrize("form", [".jsonl.gz", ".jsonl.zst", ".txt.gz", ".parquet"])
def test_what_is_not_what_its_name_says_is_refused(tmp_path: Path, form: str) -> None:
    (tmp_path / f"a{form}").write_bytes(b'{"text": "a"}\n' * 20)
    with pytest.raises(InputError, match=r"is not whole .*; copy or fetch it again"):
        list(documents_of(tmp_path / f"a{form}"))


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_what_is_compressed_has_to_say_so(tmp_path: Path, packed: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(PACK[packed](b'{"text": "a"}\n'))
    with pytest.raises(InputError, match=rf"is compressed; name it a\.jsonl{packed}"):
        list(documents_of(tmp_path / "a.jsonl"))


BAD = {
    b"{": "is not JSON",
    b"[" * 100_000: "is not JSON",
    b"[1]": 'is not {"text"',
    b'{"words": "a"}': r"has no text \(it has words\)",
    b'{"text": 3}': "has text that is not text",
    b'{"text": null}': "has text that is not text",
    b'{"text": "\\ud800"}': "holds half of a surrogate pair",
    b'{"text": "\xff"}': "is not UTF-8",
}


@pytest.mark.parametrize("line", BAD, ids=BAD.values())
@pytest.mark.parametrize("packed", PACK)
def test_a_line_that_is_no_document_is_told_with_its_number(
    tmp_path: Path, line: bytes, packed: str
) -> None:
    file = tmp_path / f"a.jsonl{packed}"
    good = b'{"text": "a"}\n'
    file.write_bytes(PACK[packed](good + b"\n" + line + b"\n" + good))
    with pytest.raises(BadDocument, match=rf"a\.jsonl{packed}, line 3 {BAD[line]}"):
        list(documents_of(file))
    first, bad, last = entries_of(file)
    assert (first, last) == ("a", "a")
    assert isinstance(bad, BadDocument)


def test_rows_that_are_no_text_are_told(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": [1]}), file)
    with pytest.raises(InputError, match="int64 in column text"):
        list(documents_of(file))
    with pytest.raises(InputError, match=r"no column words \(it has text\)"):
        list(documents_of(file, "words"))
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")]
    )
    parquet.write_table(
        pa.table({"text": pa.concat_arrays([broken, pa.array([None], "string")])}), file
    )
    assert [entry if isinstance(entry, str) else entry.what for entry in entries_of(file)] == [
        "a",
        "is not UTF-8",
        "has text that is not text",
    ]
    with pytest.raises(InputError, match=r"a\.parquet, row 2 is not UTF-8"):
        list(documents_of(file))


def test_whole_rows_are_the_same_in_every_form(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"q": "a\u2028", "choices": {"text": ["x", "y"]}, "label": 1},
        {"q": "é", "label": 0},
    ]
    rows[1]["choices"] = None
    lines = "\n".join(map(json.dumps, rows)).encode()
    for packed, pack in PACK.items():
        (tmp_path / f"a.jsonl{packed}").write_bytes(pack(codecs.BOM_UTF8 + lines))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for file in tmp_path.iterdir():
        assert list(rows_of(file)) == rows
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(InputError, match=r"a\.json, row 1 is no row of named values"):
        list(rows_of(tmp_path / "a.json"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b""),
        ("b.txt", codecs.BOM_UTF8),
        ("a.jsonl", b""),
        ("b.jsonl", codecs.BOM_UTF8 + b"\n \n"),
        ("a.json", b"[]"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
    ],
)
def test_a_file_without_documents_is_told(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} (is empty|holds no documents)"):
        list(documents_of(tmp_path / name))


@pytest.mark.parametrize("content", [b"a\nb\xff", "a".encode("utf-16")])
def test_a_txt_that_is_not_utf_8_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.txt, line \d is not UTF-8 text"):
        list(documents_of(tmp_path / "a.txt"))
