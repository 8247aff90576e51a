"""GGUF files from elsewhere: read, or refused in one sentence before anything is written."""

import struct
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf", reason="GGUF files are read in the image eval")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espalier.contract.progress import Progress
from espalier.errors import InputError
from inputs.gguf.convert import convert
from inputs.gguf.file import GgufFile
from tests.unit.absurd import one_sentence
from tests.unit.test_gguf import SHAPE
from tests.unit.tiny_checkpoints import make_checkpoint
from tests.unit.tiny_gguf import write_gguf

KEPT = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=60,
)
ARRAY, STRING, U8 = 9, 8, 0
KEYS = (
    "general.architecture", "general.alignment", "split.count",
    *(f"llama.{key}" for key in (
        "block_count", "context_length", "feed_forward_length", "attention.head_count",
        "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "rope.freq_base",
        "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor", "expert_count",
    )),
    *(f"tokenizer.ggml.{key}" for key in (
        "model", "pre", "tokens", "scores", "token_type", "merges", "bos_token_id",
        "eos_token_id", "unknown_token_id", "add_bos_token", "add_space_prefix",
    )),
)  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([None, 0, 1, 3, 2**31, 2**32 - 1, -1, 0.0, -1.5, 1e30, "", "llama", "x\ny"]),
    st.sampled_from([float("nan"), float("inf"), True, False, ["a", "b"], [1, 2], [0.5], [True]]),
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=300),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_checkpoint(folder, **SHAPE)
    return folder


@pytest.fixture(scope="module")
def good(model: Path) -> bytes:
    return write_gguf(model.parent / "good.gguf", model).read_bytes()


def convert_all(path: Path, output: Path) -> None:
    output.mkdir(exist_ok=True)
    convert(path, output, Progress())


@KEPT
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
def test_values_from_elsewhere(model: Path, tmp_path: Path, keys: dict[str, Any]) -> None:
    path = tmp_path / "m.gguf"
    try:
        write_gguf(path, model, keys=keys)
    except (ValueError, TypeError, struct.error, OverflowError):
        return  # the library's writer does not write it
    with one_sentence():
        convert_all(path, tmp_path / "out")


@KEPT
@given(st.data())
def test_bytes_from_elsewhere(good: bytes, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(good)
    header = len(good) - 200_000 if len(good) > 300_000 else len(good) // 3
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(header, 64)))
        new = data.draw(st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\x80", b"\x09\0\0\0"]))
        content[place : place + len(new)] = new
    cut = data.draw(st.sampled_from([len(content), len(content) // 2, 30, 8, 4, 1]))
    path = tmp_path / "m.gguf"
    path.write_bytes(bytes(content[:cut]))
    with one_sentence():
        file = GgufFile(path)
        for name in file.tensors:
            file.shape(name)
    with one_sentence():
        convert_all(path, tmp_path / "out")


def header(tensors: int, keys: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tensor(name: str, dims: tuple[int, ...], offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return text(name) + sizes + struct.pack("<IQ", 0, offset)


@pytest.mark.parametrize(
    "content",
    [
        header(2**63, 0),
        header(0, 2**64 - 1),
        header(0, 1, text("a") + struct.pack("<IIQ", ARRAY, U8, 2**60)),
        header(0, 1, text("a") + struct.pack("<IIQ", ARRAY, STRING, 2**60)),
        header(0, 1, text("a") + struct.pack("<IQ", STRING, 2**62) + b"x"),
        header(0, 1, text("a") + struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 5000),
        header(0, 1, struct.pack("<Q", 2**63)),
        header(1, 0, text("t") + struct.pack("<I", 2**32 - 1)),
        header(1, 0, tensor("t", (2**40, 2**40))),
        header(1, 0, tensor("t", (2**32, 2**32)) + bytes(64)),
        header(1, 0, tensor("t", (0, 2**62)) + bytes(64)),
        header(1, 0, tensor("t", (4,), 2**63) + bytes(64)),
        header(2, 0, tensor("t", (4,)) + tensor("u", (4,), 8) + bytes(128)),
        header(1, 0, tensor("t\x1b[2J", (4,)) + bytes(128)),
    ],
    ids=[
        "tensors", "keys", "bytes", "texts", "text", "nested", "name", "dimensions",
        "more-than-all", "overflow", "empty", "offset", "overlap", "unprintable",
    ],
)  # fmt: skip
def test_what_a_header_claims_is_not_believed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with one_sentence(), pytest.raises(InputError, match="cannot be read as a GGUF file"):
        GgufFile(path).check_readable()
