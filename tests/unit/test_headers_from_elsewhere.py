"""Headers that describe what no tensors can be are refused, at once and in one sentence."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import deserialize

from espalier.data.token_ids import read_input_ids
from espalier.errors import InputError
from espalier.models.checkpoint.header import MAX_HEADER_BYTES, read_header
from espalier.models.checkpoint.locate import INDEX, locate
from tests.unit.absurd import one_sentence, spoilt, text_of

GOOD = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "c": {"dtype": "I64", "shape": [], "data_offsets": [32, 40]},
    "d": {"dtype": "F16", "shape": [0, 5], "data_offsets": [40, 40]},
}
BODY = bytes(40)
KEPT = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def safetensors(header: bytes, body: bytes = BODY) -> bytes:
    return len(header).to_bytes(8, "little") + header + body


def with_header(folder: Path, header: Any, body: bytes = BODY) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(safetensors(header if isinstance(header, bytes) else text_of(header), body))
    return path


def test_a_good_header_is_read(tmp_path: Path) -> None:
    found = read_header(with_header(tmp_path, GOOD))
    assert {name: entry.shape for name, entry in found.items()} == {
        "a": (2, 3), "b": (4,), "c": (), "d": (0, 5)
    }  # fmt: skip


@KEPT
@given(spoilt(GOOD))
def test_whatever_is_read_is_what_the_library_reads_too(tmp_path: Path, header: Any) -> None:
    path = with_header(tmp_path, header)
    with one_sentence():
        found = read_header(path)
        theirs = dict(deserialize(path.read_bytes()))  # raises where the library refuses
        assert {n: tuple(t["shape"]) for n, t in theirs.items()} == {
            name: entry.shape for name, entry in found.items()
        }
        content = path.read_bytes()
        for name, entry in found.items():
            place = slice(entry.offset, entry.offset + entry.nbytes)
            assert bytes(theirs[name]["data"]) == content[place]


@KEPT
@given(st.binary(max_size=200) | st.binary(max_size=200).map(safetensors))
def test_bytes_that_are_no_header(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with one_sentence():
        read_header(path)


IDS = {"input_ids": {"dtype": "I64", "shape": [1, 5], "data_offsets": [0, 40]}}


@KEPT
@given(spoilt(IDS))
def test_token_ids_from_elsewhere(tmp_path: Path, header: Any) -> None:
    with one_sentence():
        assert read_input_ids(with_header(tmp_path, header)).ndim == 2


def changed(**tensor: Any) -> dict[str, Any]:
    return GOOD | {"a": GOOD["a"] | tensor}


@pytest.mark.parametrize(
    "header",
    [
        changed(shape=[2.0, 3.0]),
        changed(shape=[1e30]),
        changed(shape=[2**63, 0]),
        changed(shape=[2**62, 2**62, 0], data_offsets=[0, 0]),
        changed(shape=[-2, -3]),
        changed(shape=[[2, 3]]),
        changed(shape=[True, 6]),
        changed(shape=[1] * 100_000),
        changed(shape=6),
        changed(shape={"2": 3}),
        changed(data_offsets=[0, 24, 48]),
        changed(data_offsets=[24, 0]),
        changed(data_offsets=[-24, 0]),
        changed(data_offsets=[0, 2**63]),
        changed(data_offsets=[0.0, 24.0]),
        changed(dtype=["F32"]),
        GOOD | {"c": GOOD["c"] | {"shape": ""}},
        GOOD | {"c": GOOD["c"] | {"shape": {}}},
        changed(dtype="F32\n"),
        GOOD | {"b": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]}},  # overlaps
        GOOD | {"b": {"dtype": "BF16", "shape": [2], "data_offsets": [28, 32]}},  # leaves a gap
        GOOD | {"__metadata__": ["format"]},
        GOOD | {"__metadata__": {"format": 1}},
        GOOD | {"\x1b[2J": GOOD["d"]},
        [GOOD],
        "header",
    ],
)  # fmt: skip
def test_each_kind_of_absurdity(tmp_path: Path, header: Any) -> None:
    with pytest.raises(InputError, match=r"corrupt|promises"):
        read_header(with_header(tmp_path, header))


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    text = json.dumps(GOOD).replace('"b"', '"a"').encode()
    with pytest.raises(InputError, match="its header has a name twice in one object"):
        read_header(with_header(tmp_path, text))


@pytest.mark.parametrize("length", [0, 2**31, 2**63, 2**64 - 1, MAX_HEADER_BYTES + 1])
def test_nothing_is_allocated_by_what_a_header_claims(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    tracemalloc.start()
    with pytest.raises(InputError, match="header cannot be read"):
        read_header(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@KEPT
@given(
    spoilt({"metadata": {"total_size": 40}, "weight_map": dict.fromkeys("abcd", "m.safetensors")})
)
def test_an_index_from_elsewhere(tmp_path: Path, index: Any) -> None:
    (tmp_path / "m.safetensors").write_bytes(safetensors(text_of(GOOD)))
    (tmp_path / INDEX).write_bytes(text_of(index))
    with one_sentence():
        assert set(locate(tmp_path)) == set("abcd")


@pytest.mark.parametrize(
    "file", ["../m.safetensors", "/etc/passwd", "", ".", "a\0b", "x\ny", "ü" * 200]
)
def test_an_index_names_files_beside_it(tmp_path: Path, file: str) -> None:
    (tmp_path / INDEX).write_bytes(text_of({"weight_map": {"a": file}}))
    with one_sentence():
        locate(tmp_path)
        raise AssertionError(file)
