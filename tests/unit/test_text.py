"""Text sources: documents by position, descriptions, refusals."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

np = pytest.importorskip("numpy")

from espalier.data.text import Description, Documents, Reading, kind_of, split_files  # noqa: E402
from espalier.errors import InputError  # noqa: E402


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.text(), min_size=1, max_size=8), st.booleans())
def test_documents_come_back_in_any_order(tmp_path: Path, texts: list[str], packed: bool) -> None:
    lines = "\n\n".join(json.dumps({"text": text}) for text in texts).encode() + b"\n"
    path = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    path.write_bytes(gzip.compress(lines) if packed else lines)
    documents = Documents(path)
    assert list(documents) == texts
    assert [documents[i] for i in reversed(range(len(texts)))] == texts[::-1]
    assert documents[:3] == texts[:3]
    assert documents[-1] == texts[-1]


@pytest.mark.parametrize("line", ["", "[1]", '{"words": "a"}', '{"text": 3}', "{"])
def test_a_line_that_is_no_document_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InputError):
        Documents(path)[0]


def test_a_description_comes_back(tmp_path: Path) -> None:
    described = Description("a", "b", "c", Reading("train", "stream", " "), remark="d")
    described.write(tmp_path)
    assert Description.read(tmp_path) == described
    (tmp_path / "dataset.json").write_text('{"nom": "a"}')
    with pytest.raises(InputError, match="fetch it again"):
        Description.read(tmp_path)


def test_a_plain_folder_is_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    assert Description.read(tmp_path).calibration.split == "train"
    assert kind_of(tmp_path) == "dataset"
    with pytest.raises(InputError, match="it has: train"):
        split_files(tmp_path, "test")


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").touch()
    with pytest.raises(InputError, match="cannot be read as text"):
        kind_of(tmp_path / "a.pdf")
