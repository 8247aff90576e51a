import os
import shutil
from pathlib import Path

import pytest

from espalier.contract.manifest import MANIFEST
from espalier.contract.store import Store
from espalier.errors import EnvironmentFailure, InputError


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/b", "..", ".hidden", "", "a b", "x.partial-1", "a\n"]
)
def test_a_name_that_leaves_the_store_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot name an artifact"):
        Store(tmp_path).path("checkpoints", name)


def test_an_evaluation_is_named_by_checkpoint_and_suite(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.path("evals", "model/quick") == tmp_path / "evals" / "model" / "quick"
    with pytest.raises(InputError):
        store.path("evals", "a/b/c")


def test_publishing_replaces_whole_directories(tmp_path: Path) -> None:
    store = Store(tmp_path)
    target = store.path("models", "m")
    for content in ("old", "new"):
        partial = store.partial("models", "m", content * 10)
        store.create(partial)
        (partial / MANIFEST).write_text(content)
        (partial / content).touch()
        store.publish(partial, target)
    assert sorted(path.name for path in target.iterdir()) == [MANIFEST, "new"]
    assert list(store.leftovers()) == []
    assert [(section, name) for section, name, _ in store.artifacts()] == [("models", "m")]


def replacing(store: Store) -> tuple[Path, Path]:
    """A published directory, and the complete one that is to replace it."""
    target, partial = store.path("models", "m"), store.partial("models", "m", "f" * 64)
    for directory, content in ((target, "old"), (partial, "new")):
        store.create(directory)
        (directory / MANIFEST).write_text(content)
    return target, partial


def test_what_could_not_be_replaced_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    target, partial = replacing(store)
    rename = Path.rename

    def failing(self: Path, other: Path) -> Path:
        if self == partial:
            raise OSError("the disk is gone")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="the disk is gone"):
        store.publish(partial, target)
    assert (target / MANIFEST).read_text() == "old"
    assert (partial / MANIFEST).read_text() == "new"


def test_what_a_dead_run_has_set_aside_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two renames, the old result has another name."""
    store = Store(tmp_path)
    target, partial = replacing(store)
    rename = Path.rename

    def killed(self: Path, other: Path) -> Path:
        if self == partial:
            raise KeyboardInterrupt
        return rename(self, other)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            store.publish(partial, target)
    assert not target.exists()
    store.recover(target)
    assert (target / MANIFEST).read_text() == "old"
    store.publish(partial, target)
    store.recover(target)
    assert (target / MANIFEST).read_text() == "new"
    assert list(store.leftovers()) == []


def test_an_incomplete_directory_is_not_published(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create(store.path("models", "m"))
    assert store.published("models", "m") is None
    assert store.find("m", ("models",)) is None


def test_partials_are_found_and_lead_back_to_their_target(tmp_path: Path) -> None:
    store = Store(tmp_path)
    partial = store.partial("evals", "m/quick", "f" * 64)
    store.create(partial)
    assert list(store.leftovers()) == [partial]
    assert store.target_of(partial) == store.path("evals", "m/quick")


def test_a_store_that_cannot_be_written_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFailure, match="cannot be written"):
        Store(tmp_path / "file").create(tmp_path / "file" / "models")


def test_what_cannot_be_removed_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where another user's process has written into a result that is replaced."""
    store = Store(tmp_path)
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors: None)
    for number in range(3):
        target, partial = store.path("models", "m"), store.partial("models", "m", "f" * 64)
        store.create(partial)
        (partial / MANIFEST).write_text(str(number))
        store.publish(partial, target)
        assert (target / MANIFEST).read_text() == str(number)
    assert len(list(store.leftovers())) == 2


def test_of_two_old_results_the_newer_is_given_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    target = store.path("models", "m")
    for age, key in ((200, "a"), (100, "c"), (300, "b")):
        aside = target.with_name(f"m.replaced-{key}-1")
        store.create(aside)
        (aside / MANIFEST).write_text(key)
        os.utime(aside / MANIFEST, (1e9 - age, 1e9 - age))
    store.recover(target)
    assert (target / MANIFEST).read_text() == "c"


def test_a_run_that_is_published_leaves_nothing_in_its_result(tmp_path: Path) -> None:
    store = Store(tmp_path)
    target = store.path("models", "m")
    store.create(target / ".run" / "scratch")
    (target / MANIFEST).touch()
    assert list(store.leftovers()) == [target / ".run"]
    assert store.target_of(target / ".run") == target
    store.recover(target)
    assert list(target.iterdir()) == [target / MANIFEST]
