"""The run's folder, in a plain one and in a bucket by gcsfs itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from espalier.contract.files import file_sha256
from espalier.errors import EnvironmentFailure
from espalier.host.runtimes.tpu_vm.folder import Folder
from espalier.host.runtimes.tpu_vm.names import Listed
from tests.tpu.fake_storage import storing


@pytest.fixture(params=["plain", "gs"])
def folder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Folder]:
    if request.param == "plain":
        yield Folder(str(tmp_path / "bucket" / "prefix"))
        return
    pytest.importorskip("gcsfs")
    with storing() as storage:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.url)
        monkeypatch.setenv("FSSPEC_GCS_TOKEN", "anon")
        monkeypatch.setenv("FSSPEC_GCS_SKIP_INSTANCE_CACHE", "1")
        yield Folder("gs://bucket/prefix/")
        assert any("/b/bucket/o" in asked for asked in storage.asked)  # it was gcsfs that asked


def test_objects(folder: Folder) -> None:
    assert folder.read("launch.json") is None
    assert folder.below("workers").texts() == {}
    folder.write("launch.json", "{}")
    folder.write("workers/0.json", "zero\n")
    folder.write("workers/1.json", "one\n")
    folder.write("workers/old/1.json", "not directly in it")
    assert folder.read("launch.json") == "{}"
    assert folder.below("workers").texts() == {"0.json": "zero\n", "1.json": "one\n"}
    folder.write("workers/1.json", "later\n")
    assert folder.below("workers").texts()["1.json"] == "later\n"
    folder.remove("workers")
    assert folder.below("workers").texts() == {}
    folder.remove("workers")
    assert folder.read("launch.json") == "{}"


def test_another_process_is_seen(folder: Folder) -> None:
    exits = folder.below("exits/1")
    Folder(folder.url).write("exits/1/0.json", "{}")
    assert exits.texts() == {"0.json": "{}"}
    Folder(folder.url).write("exits/1/1.json", "{}")
    assert exits.texts() == {"0.json": "{}", "1.json": "{}"}


def test_trees(folder: Folder, tmp_path: Path) -> None:
    source = tmp_path / "model"
    (source / "deep").mkdir(parents=True)
    (source / "config.json").write_text("{}")
    (source / "deep" / "weights").write_bytes(bytes(range(256)) * 99)
    folder.below("inputs").upload(source, "model-1")
    folder.below("inputs").upload(source / "config.json", "config-1")
    listed = {
        path.relative_to(source).as_posix(): Listed(file_sha256(path), path.stat().st_size)
        for path in source.rglob("*")
        if path.is_file()
    }
    folder.below("inputs/model-1").download(tmp_path / "back", listed, last="config.json")
    assert (tmp_path / "back" / "config.json").read_text() == "{}"
    files = [file for file in (tmp_path / "back").rglob("*") if file.is_file()]
    assert max(files, key=lambda file: file.stat().st_mtime_ns).name == "config.json"
    assert (tmp_path / "back" / "deep" / "weights").read_bytes() == bytes(range(256)) * 99
    assert folder.read("inputs/config-1/config.json") == "{}"
    folder.clear()
    assert folder.read("inputs/config-1/config.json") is None


def test_a_bucket_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFailure, match=r"cannot be read or written: .*BUCKET= exist"):
        Folder(str(tmp_path / "file" / "below")).write("x", "")
