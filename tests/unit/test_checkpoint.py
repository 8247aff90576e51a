"""Checkpoints are read and written tensor by tensor, and damage is told in one sentence."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from espalier.errors import EnvironmentFailure, InputError
from espalier.models.checkpoint.companions import copy_config
from espalier.models.checkpoint.locate import INDEX
from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.checkpoint.writer import write_safetensors
from espalier.models.tokenizer import check_tokenizer, largest_token_id, tokens_without_row

TENSORS = {
    "a": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b": torch.ones(5, dtype=torch.bfloat16),
    "c": torch.tensor(3.0),
    "d": torch.zeros((0, 4), dtype=torch.float16),
}


def sharded(directory: Path) -> Path:
    save_file({"a": TENSORS["a"]}, directory / "x.safetensors")
    save_file({"b": TENSORS["b"]}, directory / "y.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}
    (directory / INDEX).write_text(json.dumps(index))
    return directory


def test_written_file_is_read_by_the_safetensors_package(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", TENSORS, {"k": "v"})
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[name], TENSORS[name]) for name in TENSORS)
    assert not list(tmp_path.glob("*.partial"))


def test_reader_reads_what_the_safetensors_package_wrote(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    reader = CheckpointReader(tmp_path)
    assert all(torch.equal(reader.read(name), TENSORS[name]) for name in TENSORS)
    rows = torch.tensor([2, 0, 2])
    assert torch.equal(reader.read_rows("a", rows), TENSORS["a"][rows])


def test_copied_tensors_keep_their_bytes(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    entries = CheckpointReader(tmp_path).entries
    write_safetensors(tmp_path / "copy.safetensors", entries)
    write_safetensors(tmp_path / "again.safetensors", {n: TENSORS[n] for n in entries})
    copied = (tmp_path / "copy.safetensors").read_bytes()
    assert copied == (tmp_path / "again.safetensors").read_bytes()


def test_sharded_checkpoint(tmp_path: Path) -> None:
    reader = CheckpointReader(sharded(tmp_path))
    assert torch.equal(reader.read("b"), TENSORS["b"])


@pytest.mark.parametrize("kept", [4, 30, -1])
def test_truncated_shard(tmp_path: Path, kept: int) -> None:
    shard = sharded(tmp_path) / "x.safetensors"
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"x\.safetensors is truncated"):
        CheckpointReader(tmp_path)


def test_index_naming_a_missing_file(tmp_path: Path) -> None:
    (sharded(tmp_path) / "y.safetensors").unlink()
    with pytest.raises(InputError, match=r"names y\.safetensors, which is not there"):
        CheckpointReader(tmp_path)


def test_index_placing_a_tensor_where_it_is_not(tmp_path: Path) -> None:
    index = sharded(tmp_path) / INDEX
    index.write_text(index.read_text().replace('"y.safetensors"', '"x.safetensors"'))
    with pytest.raises(InputError, match="does not hold it"):
        CheckpointReader(tmp_path)


def test_index_cannot_leave_its_directory(tmp_path: Path) -> None:
    index = sharded(tmp_path) / INDEX
    index.write_text(index.read_text().replace('"y.safetensors"', '"../y.safetensors"'))
    with pytest.raises(InputError, match="outside its directory"):
        CheckpointReader(tmp_path)


def test_corrupt_header(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((9).to_bytes(8, "little") + b"not json!")
    with pytest.raises(InputError, match="corrupt"):
        CheckpointReader(tmp_path)


def test_only_pickled_weights(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(InputError, match="nothing pickled is loaded"):
        CheckpointReader(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a checkpoint"):
        CheckpointReader(tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_name_their_tensor(tmp_path: Path, bad: float) -> None:
    save_file({"w": torch.tensor([[1.0, bad], [2.0, 3.0]])}, tmp_path / "model.safetensors")
    reader = CheckpointReader(tmp_path)
    for read in (reader.read, lambda n: list(reader.blocks(n))):
        with pytest.raises(InputError, match="w holds NaN or infinite"):
            read("w")
    with pytest.raises(InputError, match="w holds NaN or infinite"):
        write_safetensors(tmp_path / "copy.safetensors", reader.entries)
    assert not (tmp_path / "copy.safetensors").exists()


def test_token_outside_the_embedding(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="outside the 3 rows"):
        CheckpointReader(tmp_path).read_rows("a", torch.tensor([3]))


def test_disk_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="cannot be written"):
        write_safetensors(tmp_path / "absent" / "x.safetensors", TENSORS)


def test_config_is_copied_as_it_is_unless_its_dtype_is_wrong(tmp_path: Path) -> None:
    source, target = tmp_path / "s", tmp_path / "t"
    source.mkdir()
    target.mkdir()
    (source / "config.json").write_text('{"torch_dtype":   "bfloat16"}')
    copy_config(source, target, "bfloat16")
    assert (target / "config.json").read_bytes() == (source / "config.json").read_bytes()
    copy_config(source, target, "float32")
    assert json.loads((target / "config.json").read_text()) == {"torch_dtype": "float32"}


def test_tokenizer_is_compared_with_the_embedding(tmp_path: Path) -> None:
    check_tokenizer(tmp_path, 1)  # none, so nothing to compare
    content = {
        "model": {"vocab": {"a": 0, "b": 7}},
        "added_tokens": [{"id": 9, "content": "<pad>"}],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    check_tokenizer(tmp_path, 10)
    check_tokenizer(tmp_path, 8)  # no text is <pad>
    (tmp_path / "config.json").write_text('{"vocab_size": 8}')
    assert tokens_without_row(tmp_path) == ["<pad>"]
    with pytest.raises(InputError, match="ids up to 7 and the embedding has 7 rows"):
        check_tokenizer(tmp_path, 7)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be read"):
        check_tokenizer(tmp_path, 9)


def test_sentencepiece_model_is_counted(tmp_path: Path) -> None:
    # Field 1 (a piece) three times, then field 2 (the trainer's settings).
    piece = b"\x0a\x03\x0a\x01x"
    (tmp_path / "tokenizer.model").write_bytes(piece * 3 + b"\x12\x02\x18\x01")
    assert largest_token_id(tmp_path) == 2
