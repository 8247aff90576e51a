"""Unfinished work is its user's alone, and another's is not gone on with."""

import os
import stat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from espalier.contract.discovery import stage_named
from espalier.contract.manifest import MANIFEST
from espalier.contract.ownership import Ours, require_own
from espalier.contract.store import Store
from espalier.errors import EnvironmentFailure
from espalier.host.execution import Executor
from espalier.host.leftovers import Fate, Tidying
from espalier.host.plan import Request
from espalier.host.runtimes.local import InsideRuntime
from espalier.host.settings import Settings
from espalier.run_stage import run

OTHER = 54321


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def partial(store: Store) -> Path:
    place = store.partial("models", "m", "f" * 64)
    store.begin(place)
    (place / ".run" / "scratch" / "state").mkdir(parents=True)
    (place / ".run" / "scratch" / "state" / ".metadata").touch()
    return place


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o000, 0o077])
def test_a_partial_is_private_and_what_is_published_is_its_sections(
    store: Store, mask: int
) -> None:
    before = os.umask(mask)
    try:
        target, place = store.path("models", "m"), store.partial("models", "m", "f" * 64)
        store.begin(place)
        assert mode(place) == 0o700
        (place / "file").touch()
        store.begin(place)  # found again by a resume
        (place / MANIFEST).touch()
        store.publish(place, target)
    finally:
        os.umask(before)
    assert mode(target) == mode(target.parent) == 0o777 & ~mask
    assert mode(target / "file") == 0o666 & ~mask


def test_one_of_before_is_closed(store: Store, partial: Path) -> None:
    partial.chmod(0o755)
    store.begin(partial)
    assert mode(partial) == 0o700


@pytest.mark.parametrize("place", ["", ".run/scratch/state", ".run/scratch/state/.metadata"])
@pytest.mark.parametrize("bits", [0o020, 0o002])
def test_what_others_may_have_written_is_refused(
    store: Store, partial: Path, place: str, bits: int
) -> None:
    partial.chmod(0o755)
    (partial / place).chmod(mode(partial / place) | bits)
    for check in (require_own, store.begin, require_own):  # it stays refused
        with pytest.raises(EnvironmentFailure, match="may be written by others") as refused:
            check(partial)
        assert refused.value.exit_code == 3
    assert (partial / ".run" / "scratch" / "state" / ".metadata").is_file()
    partial.chmod(0o700)  # as the sentence's user may decide
    require_own(partial)


def test_within_a_private_folder_modes_are_no_matter(partial: Path) -> None:
    """A umask of 002 gives every file to the group, which cannot enter."""
    (partial / ".run" / "scratch" / "state").chmod(0o775)
    require_own(partial)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
@pytest.mark.parametrize("place", ["", ".run", ".run/scratch/state/.metadata"])
def test_another_users_work_is_refused_before_it_is_read(
    store: Store, partial: Path, place: str
) -> None:
    partial.chmod(0o755)
    os.chown(partial / place, OTHER, OTHER)
    with pytest.raises(EnvironmentFailure, match=f"belongs to uid {OTHER}, and unfinished work"):
        require_own(partial)
    with pytest.raises(EnvironmentFailure, match=f"belongs to uid {OTHER}"):
        store.begin(partial)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_private_folder_of_another_is_told_by_its_owner() -> None:
    """Who may not even enter it learns whose it is; tidying leaves it alone."""
    with TemporaryDirectory() as folder:  # that of pytest is closed to others
        Path(folder).chmod(0o755)
        store = Store(Path(folder))
        place = store.partial("models", "m", "f" * 64)
        store.begin(place)
        child = os.fork()
        if not child:
            code = 1
            try:
                os.setuid(OTHER)
                try:
                    require_own(place)
                except EnvironmentFailure as error:
                    kept = Tidying(store, 0, resumable=True).judge(place, store.path("models", "m"))
                    code = 0 if "belongs to root" in str(error) and kept.fate is Fate.KEEP else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_a_command_begins_nothing_in_anothers_work(store: Store) -> None:
    """Neither the host nor the stage reads what is there, be it complete or not."""
    stage, settings = stage_named("corpus"), Settings(store=store.root)
    executor = Executor(store, InsideRuntime(), settings)
    request = Request(stage, stage.parameters(), {}, "x")
    place = executor.resolve(request).partial
    store.begin(place)
    (place / ".run").mkdir()
    (place / ".run" / "run.json").write_text("read by nobody")
    (place / MANIFEST).write_text("nor this")
    os.chown(place, OTHER, OTHER)
    with pytest.raises(EnvironmentFailure, match=f"belongs to uid {OTHER}") as refused:
        executor.execute(request)
    assert refused.value.exit_code == 3
    with pytest.raises(EnvironmentFailure, match=f"belongs to uid {OTHER}"):
        run(place)
    assert sorted(path.name for path in place.iterdir()) == [".run", MANIFEST]


def test_a_link_is_no_folder(store: Store, partial: Path) -> None:
    link = partial.with_name("link")
    link.symlink_to(partial)
    with pytest.raises(EnvironmentFailure, match="is no folder"):
        require_own(link)


def test_a_file_system_that_keeps_no_modes_or_owners(
    partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a mount for one user has it: everything belongs to a number, in one mode."""

    def everywhere(folder: Path) -> Ours:
        return Ours(os.geteuid(), keeps_modes=False)

    monkeypatch.setattr(Ours, "in_", staticmethod(everywhere))
    for path in (partial, *partial.rglob("*")):
        path.chmod(0o777)
    require_own(partial)


def test_it_is_asked_of_the_file_system_who_we_are(tmp_path: Path) -> None:
    found = Ours.in_(tmp_path)
    assert (found.owner, found.keeps_modes) == (os.geteuid(), True)
    assert [path.name for path in tmp_path.rglob("*")] == [".run"]


def test_a_full_disk_is_no_other_user(partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**named: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(EnvironmentFailure, match="cannot be written: No space left"):
        require_own(partial)
