"""A checkpoint's files: laid out as transformers does, written in place, whole after any kill."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from espalier.contract.manifest import RUN_FOLDER
from espalier.contract.saved import noted
from espalier.errors import EnvironmentFailure, InputError
from espalier.models.checkpoint import shards as module
from espalier.models.checkpoint.header import ITEM_BYTES, TensorSpec, read_header
from espalier.models.checkpoint.layout import Shard, plan_shards
from espalier.models.checkpoint.locate import INDEX, SINGLE, locate
from espalier.models.checkpoint.reader import TORCH_DTYPES, CheckpointReader
from espalier.models.checkpoint.shards import JOURNAL
from espalier.models.checkpoint.writer import CheckpointWriter, spec_of
from tests.unit.tiny_checkpoints import load_all, make_checkpoint

LIMIT = 1000
DTYPES = ("F32", "BF16", "F16", "I64", "U8")


@st.composite
def checkpoints(draw: st.DrawFn) -> dict[str, Tensor]:
    """Tensors of any dtype and of 0 to about 2,000 bytes, in any order of their names."""
    names = draw(st.lists(st.text("abc.", min_size=1, max_size=6), max_size=12, unique=True))
    tensors = {}
    for number, name in enumerate(names):
        dtype = TORCH_DTYPES[draw(st.sampled_from(DTYPES))]
        shape = draw(st.lists(st.integers(0, 9), max_size=3))
        generator = torch.Generator().manual_seed(number)
        tensors[name] = torch.randint(0, 100, shape, generator=generator).to(dtype)
    return tensors


def specs_of(tensors: dict[str, Tensor]) -> list[TensorSpec]:
    return [spec_of(name, tensor) for name, tensor in tensors.items()]


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


@given(checkpoints(), st.integers(1, 3000))
def test_the_layout(tensors: dict[str, Tensor], limit: int) -> None:
    shards = plan_shards(specs_of(tensors), limit)
    assert [spec.name for shard in shards for spec in shard.tensors] == list(tensors)
    for shard in shards:
        sizes = {spec.name: spec.nbytes for spec in shard.tensors}
        assert sum(sizes.values()) <= limit or len(sizes) == 1
        end = len(shard.header)
        for name, offset in shard.offsets.items():
            assert offset == end  # one after the other, no gap
            assert offset % ITEM_BYTES[next(s.dtype for s in shard.tensors if s.name == name)] == 0
            end += sizes[name]
        assert end == shard.nbytes
    for one, following in pairwise(shards):  # no file is left half empty
        assert sum(s.nbytes for s in one.tensors) + following.tensors[0].nbytes > limit


@given(checkpoints().filter(bool), st.integers(100, 3000))
def test_files_are_divided_and_named_as_transformers_does(
    tensors: dict[str, Tensor], limit: int
) -> None:
    """But for a tensor larger than a file, which transformers does not let end one."""
    if any(tensor.nbytes > limit for tensor in tensors.values()):
        return
    apart = {name: tensor.clone() for name, tensor in tensors.items() if tensor.nbytes}
    if not apart:
        return
    theirs = split_torch_state_dict_into_shards(apart, max_shard_size=limit)
    ours = {s.name: [t.name for t in s.tensors] for s in plan_shards(specs_of(apart), limit)}
    expected = {name: list(held) for name, held in theirs.filename_to_tensors.items()}
    assert ours == expected


@given(checkpoints().filter(bool), st.integers(1, 3000), st.randoms())
def test_what_is_written_in_any_order_comes_back(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Tensor], limit: int, order: Any
) -> None:
    directory = tmp_path_factory.mktemp("written")
    writer = CheckpointWriter(directory, specs_of(tensors), limit=limit)
    names = list(tensors)
    order.shuffle(names)
    while names:
        count = order.randint(1, len(names))
        writer.write({name: tensors[name] for name in names[:count]})
        names = names[count:]
    writer.finish()
    files = sorted(path.name for path in directory.iterdir())
    several = len(files) > 1
    assert files[-1] == (INDEX if several else SINGLE)
    loaded: dict[str, Tensor] = {}
    for file in directory.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
        loaded |= load_file(file)
    assert loaded.keys() == tensors.keys() == locate(directory).keys()
    assert all(same(loaded[name], tensors[name]) for name in tensors)
    if several:
        index = json.loads((directory / INDEX).read_text())
        assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    shutil.rmtree(directory)


def layers(count: int = 6) -> dict[str, Tensor]:
    """Tensors of 400 bytes: two a file of 1,000."""
    generator = torch.Generator().manual_seed(0)
    return {f"layer.{i}": torch.randn(100, generator=generator) for i in range(count)}


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def begun(directory: Path, count: int, limit: int = LIMIT) -> CheckpointWriter:
    """A writer that was killed after `count` of six tensors."""
    directory.mkdir(exist_ok=True)
    tensors = layers()
    writer = CheckpointWriter(directory, specs_of(tensors), limit=limit, resume=True)
    for name in list(tensors)[:count]:
        writer.write({name: tensors[name]})
    return writer


def completed(directory: Path, limit: int = LIMIT) -> set[str]:
    """Go on from there; what had not to be written again."""
    tensors = layers()
    writer = CheckpointWriter(directory, specs_of(tensors), limit=limit, resume=True)
    kept = set(writer.written)
    for name in tensors.keys() - kept:
        writer.write({name: tensors[name]})
    writer.finish()
    return kept


@pytest.mark.parametrize("limit", [LIMIT, 10**9])
@pytest.mark.parametrize("count", range(7))
def test_a_run_killed_between_layers_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, count: int, limit: int
) -> None:
    begun(tmp_path / "whole", 6, limit).finish()
    begun(tmp_path / "killed", count, limit)
    partials = [path.name for path in (tmp_path / "killed").glob("*.partial")]
    assert len(partials) == (3 - count // 2 if limit == LIMIT else count < 6)
    assert completed(tmp_path / "killed", limit) == {f"layer.{i}" for i in range(count)}
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert len(files_of(tmp_path / "whole")) == (4 if limit == LIMIT else 1)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.test_checkpoint_shards import begun
begun(Path(sys.argv[1]), 3)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_nothing_that_was_written(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed")]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert completed(tmp_path / "killed") == {"layer.0", "layer.1", "layer.2"}
    begun(tmp_path / "whole", 6).finish()
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("limit", [LIMIT, 10**9])
def test_a_layer_made_again_after_a_kill_is_passed_over(tmp_path: Path, limit: int) -> None:
    """The kill came after its tensors and before the run's own state."""
    begun(tmp_path, 6, limit)
    writer = begun(tmp_path, 6, limit)
    writer.finish()
    assert all(same(load_all(tmp_path)[n], t) for n, t in layers().items())


@pytest.mark.parametrize("limit", [LIMIT, 10**9])
def test_what_is_finished_is_not_written_again_in_its_run(tmp_path: Path, limit: int) -> None:
    """A run whose checks fail, or are killed, has all of its weights saved."""
    scratch = tmp_path / RUN_FOLDER / "scratch"
    scratch.mkdir(parents=True)
    begun(tmp_path, 6, limit).finish()
    assert not (tmp_path / JOURNAL).exists()
    assert noted(scratch) == "tensor 7"
    assert completed(tmp_path, limit) == layers().keys()
    begun(tmp_path, 6, limit)  # killed before it is finished once more
    assert completed(tmp_path, limit) == layers().keys()
    CheckpointWriter(tmp_path, specs_of(layers()), limit=limit)  # anew
    assert noted(scratch) is None


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def with_another_header(path: Path) -> None:
    path.write_bytes(b"\0" * 8 + path.read_bytes()[8:])


def removed(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [truncated, with_another_header, removed])
def test_a_damaged_file_costs_its_own_tensors_alone(tmp_path: Path, damage: Any) -> None:
    begun(tmp_path / "killed", 5)
    damage(tmp_path / "killed" / "model-00003-of-00003.safetensors.partial")
    assert completed(tmp_path / "killed") == {f"layer.{i}" for i in range(4)}
    begun(tmp_path / "other", 5)
    damage(tmp_path / "other" / "model-00001-of-00003.safetensors")
    assert completed(tmp_path / "other") == {"layer.2", "layer.3", "layer.4"}
    begun(tmp_path / "whole", 6).finish()
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert files_of(tmp_path / "other") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("content", ["", "no journal\n", "\xff", "layer.0\nlayer.1\n"])
def test_a_damaged_journal_costs_everything_and_gives_no_wrong_bytes(
    tmp_path: Path, content: str
) -> None:
    begun(tmp_path / "killed", 3)
    (tmp_path / "killed" / JOURNAL).write_bytes(content.encode("latin1"))
    assert completed(tmp_path / "killed") == set()
    begun(tmp_path / "whole", 6).finish()
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_a_line_that_a_crash_cut_off_counts_for_nothing(tmp_path: Path) -> None:
    begun(tmp_path, 3)
    journal = tmp_path / JOURNAL
    journal.write_text(journal.read_text() + "layer.3")
    assert completed(tmp_path) == {"layer.0", "layer.1", "layer.2"}


def test_a_run_killed_before_a_whole_file_got_its_name(tmp_path: Path) -> None:
    begun(tmp_path, 2)
    whole = tmp_path / "model-00001-of-00003.safetensors"
    whole.rename(f"{whole}.partial")
    assert completed(tmp_path) == {"layer.0", "layer.1"}
    assert whole.is_file()


def test_a_journal_of_another_layout_is_not_read(tmp_path: Path) -> None:
    begun(tmp_path, 5, 10**9)
    assert completed(tmp_path) == set()
    assert not (tmp_path / f"{SINGLE}.partial").exists()


def test_files_of_an_earlier_division_do_not_stay(tmp_path: Path) -> None:
    """As a run of an older version left them: a file a layer."""
    (tmp_path / "model-00001-of-00031.safetensors").write_bytes(b"x")
    (tmp_path / INDEX).write_text("{}")
    begun(tmp_path, 6, 10**9).finish()
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]
    assert all(same(load_all(tmp_path)[n], t) for n, t in layers().items())


def test_a_new_export_leaves_the_old_one_until_it_is_whole(tmp_path: Path) -> None:
    begun(tmp_path, 6, 10**9).finish()
    before, tensors = files_of(tmp_path), layers()
    again = CheckpointWriter(tmp_path, specs_of(tensors))
    again.write({"layer.0": torch.zeros(100)})
    assert (tmp_path / SINGLE).read_bytes() == before[SINGLE]
    again.write({name: torch.zeros(100) for name in tensors})
    again.finish()
    assert all(not tensor.any() for tensor in load_all(tmp_path).values())


def test_an_interrupted_export_is_not_taken_for_the_one_before_it(tmp_path: Path) -> None:
    """Same names and sizes: what was written for good is only what the last journal names."""
    begun(tmp_path, 6, 10**9).finish()
    CheckpointWriter(tmp_path, specs_of(layers())).write({"layer.0": layers()["layer.0"]})
    writer = CheckpointWriter(tmp_path, specs_of(layers()), resume=True)
    assert writer.written == {"layer.0"}


def test_a_full_disk_is_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = os.posix_fallocate

    def third_fails(descriptor: int, first: int, size: int) -> None:
        if len(list(tmp_path.glob("*.partial"))) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        reserve(descriptor, first, size)

    monkeypatch.setattr(os, "posix_fallocate", third_fails)
    says = r"model-00003-of-00003\.safetensors cannot be written: No space left on device for its"
    with pytest.raises(EnvironmentFailure, match=says):
        begun(tmp_path, 0)
    assert not list(tmp_path.glob("*.safetensors*partial"))  # the space is free again


def test_a_disk_that_cannot_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(descriptor: int, first: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", unknown)
        begun(tmp_path / "other", 6).finish()
    begun(tmp_path / "whole", 6).finish()
    assert files_of(tmp_path / "other") == files_of(tmp_path / "whole")


def test_the_disk_is_full_while_a_tensor_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = begun(tmp_path, 1)

    def full(descriptor: int, block: Any, place: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "pwrite", full)
        with pytest.raises(EnvironmentFailure, match="No space left on device; free the space"):
            writer.write({"layer.1": layers()["layer.1"]})
    assert completed(tmp_path) == {"layer.0"}


def test_writes_that_the_system_cuts_short_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "pwrite", lambda fd, block, place: write(fd, block[:33], place))
        begun(tmp_path / "short", 0)  # headers are one write: planned before, checked after
    begun(tmp_path / "short", 6).finish()
    begun(tmp_path / "whole", 6).finish()
    assert files_of(tmp_path / "short") == files_of(tmp_path / "whole")


def test_what_was_not_planned_is_a_bug(tmp_path: Path) -> None:
    writer = begun(tmp_path, 5)
    with pytest.raises(RuntimeError, match="not TensorSpec"):
        writer.write({"layer.5": torch.zeros(99)})
    with pytest.raises(RuntimeError, match=r"layer\.5 of .* was never written"):
        writer.finish()


def test_a_copied_tensor_with_nan_is_not_counted_as_written(tmp_path: Path) -> None:
    source, target = tmp_path / "s", tmp_path / "t"
    for directory in (source, target):
        directory.mkdir()
    tensors = {"a": torch.ones(3), "b": torch.full((3,), torch.nan)}
    whole = CheckpointWriter(source, specs_of(tensors))
    whole.write(tensors)
    whole.finish()
    entries = CheckpointReader(source).entries
    writer = CheckpointWriter(target, [entry.spec for entry in entries.values()])
    with pytest.raises(InputError, match="b holds NaN"):
        writer.write({name: entries[name] for name in ("a", "b")})
    assert not writer.written
    assert not (target / SINGLE).exists()


def test_a_small_model_is_one_file_that_the_stock_loader_reads(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "m")
    tensors = load_all(tmp_path / "m")
    for limit in (10**9, 20_000):
        output = tmp_path / str(limit)
        output.mkdir()
        writer = CheckpointWriter(output, specs_of(tensors), limit=limit)
        writer.write(tensors)
        writer.finish()
        shutil.copy(tmp_path / "m" / "config.json", output)
        assert (output / INDEX).exists() == (limit == 20_000)
        loaded = type(model).from_pretrained(output)
        for name, weight in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], weight)


def test_a_shard_of_nothing() -> None:
    assert Shard("x", ()).nbytes == len(Shard("x", ()).header)
    assert plan_shards([]) == []


def test_a_file_is_read_as_it_was_planned(tmp_path: Path) -> None:
    begun(tmp_path, 6).finish()
    for shard in plan_shards(specs_of(layers()), LIMIT):
        entries = read_header(tmp_path / shard.name)
        assert {name: entry.offset for name, entry in entries.items()} == shard.offsets
