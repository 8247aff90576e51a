"""The run's folder, in a plain one and in a bucket by gcsfs itself."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.contract.files import file_sha256
from espalier.errors import EnvironmentFailure, InputError
from espalier.host.runtimes.tpu_vm.folder import MOST_TEXT, Folder
from espalier.host.runtimes.tpu_vm.lease import Displaced, Lease
from espalier.host.runtimes.tpu_vm.names import Listed, parse_list, require_name
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


def test_versions(folder: Folder) -> None:
    """Of two writers that know the same version one writes."""
    assert folder.version("lease") == (None, "")
    assert folder.create("lease", "one")
    assert not folder.create("lease", "two")
    text, version = folder.version("lease")
    assert text == "one"
    assert folder.replace("lease", "three", version)
    assert not folder.replace("lease", "four", version)
    assert folder.read("lease") == "three"
    folder.remove("lease")
    assert not folder.replace("lease", "five", version)
    assert folder.read("lease") is None


def test_what_is_too_large_for_a_text_is_none(folder: Folder) -> None:
    folder.write("log/0", "x" * (MOST_TEXT + 1))
    folder.write("log/1", "y")
    assert folder.read("log/0") is None
    assert folder.below("log").texts() == {"1": "y"}


def test_the_bucket_s_clock(folder: Folder) -> None:
    folder.write("workers/0.json", "{}")
    written = folder.written("workers/0.json")
    assert written
    assert folder.below("workers").times() == {"0.json": written}
    assert folder.now() >= written
    assert folder.written("absent") is None
    assert folder.below("absent").times() == {}


NAMES = ["../up", "a/../../up", "/etc/passwd", "..", "a//b", "a\\b", "./a", "a\nb", "", "a/"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_leave_the_directory(name: str) -> None:
    with pytest.raises(InputError, match=r"which is no name of a file below it"):
        require_name(name, "gs://bucket/output")


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b c", "\\", "/", "\0", "ü"]), min_size=1))
def test_whatever_is_taken_stays_below(parts: list[str]) -> None:
    name = "/".join(parts)
    with contextlib.suppress(InputError):
        require_name(name, "gs://bucket/output")
        there = os.path.normpath(f"/root/of/all/{name}")
        assert there.startswith("/root/of/all/")
        assert there.endswith(name)


def listed(**texts: str) -> dict[str, Listed]:
    return {
        name: Listed(hashlib.sha256(text.encode()).hexdigest(), len(text))
        for name, text in texts.items()
    }


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ({"a": "two"}, "its sha256 differs"),
        ({"a": "longer"}, "is 6 bytes, and the worker that made it has recorded 3 bytes"),
        ({}, "is not there, and the worker that made it has recorded 3 bytes"),
        ({"a": "one", "more": "x"}, "more is 1 bytes, and the worker .* has recorded not there"),
        ({"a": "one", "a\\..\\b": "x"}, "which is no name of a file below it"),
    ],
)
def test_what_was_changed_since_it_was_recorded(
    folder: Folder, tmp_path: Path, there: dict[str, str], says: str
) -> None:
    for name, text in there.items():
        folder.write(name, text)
    folder.write("other", "")
    folder.remove("other")
    target = tmp_path / "target"
    with pytest.raises(InputError, match=says):
        folder.download(target, listed(a="one"), last="a")
    assert not (target / "a").exists()
    assert [path for path in target.rglob("*") if path.is_file()] == []


def test_names_of_a_bucket_that_lead_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket's names are any text; what joins them unchecked writes where they say."""
    pytest.importorskip("gcsfs")
    with storing() as storage:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.url)
        monkeypatch.setenv("FSSPEC_GCS_TOKEN", "anon")
        monkeypatch.setenv("FSSPEC_GCS_SKIP_INSTANCE_CACHE", "1")
        folder = Folder("gs://bucket/prefix")
        folder.write("a", "one")
        for name in ("../evil", "x/../../evil", "/evil"):
            storage.objects[f"bucket/prefix/{name}"] = b"evil"
            storage.generations[f"bucket/prefix/{name}"] = 1
            with pytest.raises(InputError, match="which is no name of a file below it"):
                folder.download(tmp_path / "in" / "target", listed(a="one"), last="a")
            del storage.objects[f"bucket/prefix/{name}"]
    assert list(tmp_path.rglob("evil")) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    """Neither one in a bucket that is a folder, nor one that waits where files are put."""
    (tmp_path / "secret").write_text("one")
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "a").symlink_to(tmp_path / "secret")
    folder = Folder(str(tmp_path / "bucket"))
    with pytest.raises(InputError, match=r"a is a link, and"):
        folder.download(tmp_path / "target", listed(a="one"), last="a")
    (tmp_path / "bucket" / "a").unlink()
    folder.write("deep/a", "one")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "target").mkdir(exist_ok=True)
    (tmp_path / "target" / "deep").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link out of"):
        folder.download(tmp_path / "target", listed(**{"deep/a": "one"}), last="a")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("text", ["x", f"{'a' * 64} 1 ../up\n", f"{'a' * 64} -1 b", "a b c\n\n"])
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(InputError, match=r"is no list of files|no name of a file"):
        parse_list(text, "listed/1")


def test_a_bucket_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said before anything else, as the run's lease is taken."""
    pytest.importorskip("gcsfs")
    with storing() as storage:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.url)
        monkeypatch.setenv("FSSPEC_GCS_TOKEN", "anon")
        monkeypatch.setenv("FSSPEC_GCS_SKIP_INSTANCE_CACHE", "1")
        with pytest.raises(EnvironmentFailure, match=r"does BUCKET= exist"):
            Lease(Folder("gs://absent/runs/run-1"), 60).take()


def test_a_lease_in_a_bucket(folder: Folder) -> None:
    """By the generations of its object: of two launchers one has it, and knows when it has not."""
    mine, again = Lease(folder, 60), Lease(folder, 60)
    theirs = again.holder.model_copy(update={"token": "theirs", "host": "elsewhere"})
    mine.take()
    mine.renew()
    with pytest.raises(EnvironmentFailure, match="is followed by"):
        Lease(folder, 60, theirs.model_copy(update={"pid": 1})).take()
    folder.write("launcher.json", theirs.model_dump_json())
    with pytest.raises(Displaced):
        mine.renew()
    mine.release()
    assert folder.read("launcher.json") == theirs.model_dump_json()
