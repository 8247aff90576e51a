"""What tidying a store removes, keeps and puts back."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from espalier.contract.lock import lock_if_free
from espalier.contract.made import MADE
from espalier.contract.manifest import MANIFEST, RUN_FOLDER
from espalier.contract.store import Store
from espalier.errors import EnvironmentFailure, InputError
from espalier.host.cli.tidy import GcWords
from espalier.host.leftovers import Fate, Leftover, Tidying
from tests.unit.test_exit_codes import living_worker
from tests.unit.test_identity import asked, begun, published

HOUR = 3600


def tidied(
    store: Store, dry: bool = False, resumable: bool = False, min_age: float = HOUR
) -> dict[str, Fate]:
    """The fate of each leftover by its name."""
    fates: dict[str, Fate] = {}

    def tell(leftover: Leftover, outcome: str) -> None:
        assert outcome == ("would be " if dry else "") + leftover.fate.value
        fates[leftover.directory.name] = leftover.fate

    Tidying(store, min_age, resumable).run(dry, tell)
    return fates


def aged(directory: Path, hours: float = 2) -> Path:
    """All of it was changed last so long ago."""
    then = time.time() - hours * HOUR
    for path in (*directory.rglob("*"), directory):
        os.utime(path, (then, then))
    return directory


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "checkpoints").mkdir()
    return Store(tmp_path)


def test_what_its_command_goes_on_with_is_kept(store: Store) -> None:
    """An interrupted run, a job that waits in the queue again, a lost machine: all look so."""
    partial = aged(begun(store.root / "checkpoints", asked()), hours=1000)
    assert tidied(store) == {partial.name: Fate.KEEP}
    assert partial.exists()
    assert tidied(store, resumable=True) == {partial.name: Fate.REMOVE}
    assert not partial.exists()


def test_what_waits_to_be_published_is_kept_whatever_code_made_it(store: Store) -> None:
    partial = begun(store.root / "checkpoints", replace(asked(), code="1" * 64))
    (partial / RUN_FOLDER / MADE).touch()
    assert tidied(store, min_age=0) == {partial.name: Fate.KEEP}


def test_work_that_no_command_goes_on_with_is_removed(store: Store) -> None:
    folder = store.root / "checkpoints"
    others = aged(begun(folder, replace(asked(), code="1" * 64)))
    published(folder, asked(seed=1))
    superseded = aged(begun(folder, asked(seed=1)))
    empty = folder / "else.partial-0123456789ab"
    empty.mkdir()
    aged(empty)
    forced = aged(begun(folder, asked(seed=2)))  # beside a result of other parameters
    assert tidied(store) == {
        others.name: Fate.REMOVE,
        superseded.name: Fate.REMOVE,
        empty.name: Fate.REMOVE,
        forced.name: Fate.KEEP,
    }
    assert sorted(path.name for path in folder.iterdir()) == sorted(["result", forced.name])


def test_what_replaces_a_result_is_kept(store: Store) -> None:
    """FORCE=1 makes a result again beside the old one."""
    aged(published(store.root / "checkpoints", asked()), hours=9)
    again = aged(begun(store.root / "checkpoints", asked()))
    assert tidied(store) == {again.name: Fate.KEEP}


def test_nothing_is_removed_under_a_worker_whose_launcher_has_died(store: Store) -> None:
    partial = begun(store.root / "checkpoints", replace(asked(), code="1" * 64))
    with living_worker(partial):
        aged(partial)
        assert tidied(store, resumable=True, min_age=0) == {partial.name: Fate.KEEP}
    assert tidied(store, resumable=True, min_age=0) == {partial.name: Fate.REMOVE}


def test_nothing_young_is_removed(store: Store) -> None:
    partial = begun(store.root / "checkpoints", replace(asked(), code="1" * 64))
    assert tidied(store) == {partial.name: Fate.KEEP}
    aged(partial)
    (partial / "written-just-now").touch()
    assert tidied(store, resumable=True) == {partial.name: Fate.KEEP}
    assert tidied(store, min_age=0) == {partial.name: Fate.REMOVE}


def test_a_result_that_was_being_replaced_is_put_back(store: Store) -> None:
    """A kill between the two renames of a publication leaves no result, and its only copy here."""
    target = store.root / "checkpoints" / "result"
    replaced = target.with_name("result.replaced-0123456789ab")
    published(store.root / "checkpoints", asked()).rename(replaced)
    assert tidied(store, dry=True) == {replaced.name: Fate.RESTORE}
    assert not target.exists()
    assert tidied(store) == {replaced.name: Fate.RESTORE}
    assert (target / MANIFEST).is_file()
    replaced.mkdir()
    aged(replaced)
    assert tidied(store) == {replaced.name: Fate.REMOVE}
    assert (target / MANIFEST).is_file()


def test_what_was_replaced_and_in_part_removed_is_nobodys_result(store: Store) -> None:
    replaced = store.root / "checkpoints" / "result.replaced-0123456789ab"
    replaced.mkdir()
    (replaced / "model.safetensors").touch()
    aged(replaced)
    assert tidied(store) == {replaced.name: Fate.REMOVE}
    assert not replaced.with_name("result").exists()


def test_a_dry_run_changes_nothing(store: Store) -> None:
    partial = aged(begun(store.root / "checkpoints", replace(asked(), code="1" * 64)))
    assert tidied(store, dry=True) == {partial.name: Fate.REMOVE}
    assert partial.exists()
    assert not (store.root / ".locks").exists()


def test_what_is_locked_is_not_touched_and_the_lock_is_held_while_removing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = aged(begun(store.root / "checkpoints", replace(asked(), code="1" * 64)))
    lock_file = store.lock_file(store.root / "checkpoints" / "result")
    lock_file.parent.mkdir()
    with lock_if_free(lock_file) as free:
        assert free
        assert tidied(store) == {partial.name: Fate.KEEP}

    def free_meanwhile(directory: Path) -> None:
        with lock_if_free(lock_file) as free:
            assert not free
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shutil.rmtree", free_meanwhile)
    with pytest.raises(EnvironmentFailure, match=r"cannot be removed: Permission denied"):
        tidied(store)


def test_nothing_inside_an_artifact_or_behind_a_link_is_a_leftover(store: Store) -> None:
    inside = published(store.root / "checkpoints", asked()) / "steps.partial-1"
    inside.mkdir()
    elsewhere = store.root / "elsewhere"
    elsewhere.mkdir()
    (store.root / "checkpoints" / "x.partial-1").symlink_to(elsewhere)
    assert tidied(store, resumable=True, min_age=0) == {}


@pytest.mark.parametrize("words", [{"AGE": "1"}, {"MIN_AGE": "-1"}, {"ALL": "some"}])
def test_other_words_are_refused(words: dict[str, str]) -> None:
    with pytest.raises(InputError):
        GcWords.from_assignments(words)
