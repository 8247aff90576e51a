"""Whatever a stage or its engine ends in, nothing that was saved is deleted."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from espalier.contract import worker
from espalier.contract.discovery import stage_named
from espalier.contract.made import MADE
from espalier.contract.manifest import MANIFEST, RUN_FOLDER
from espalier.contract.saved import saved_in
from espalier.contract.store import Store
from espalier.contract.worker import LOCK, nobody_works, sole_worker
from espalier.errors import DIVERGED, EnvironmentFailure
from espalier.host import visible
from espalier.host.execution import Executor
from espalier.host.file_system import FileSystem
from espalier.host.images import Engine, building
from espalier.host.plan import Request
from espalier.host.runtimes.base import Launch, Runtime
from espalier.host.runtimes.container import ContainerRuntime
from espalier.host.runtimes.local import InsideRuntime
from espalier.host.runtimes.mark import may_run
from espalier.host.settings import Settings
from espalier.host.stage_exit import StageFailed, start
from tests.unit.test_saved import STOPS, Ends, begun, save

PLACE = "layer 7"
CODES = {
    **{1: 1, 2: 2, 3: 3, DIVERGED: 4, 99: 1, 255: 1},
    **dict.fromkeys((125, 126, 127), 3),
    **dict.fromkeys((75, 129, 130, 137, 143), 75),
    **dict.fromkeys((134, 135, 139), 1),
}
"""What a stage, or an engine's client, may end in, and what the command then ends in."""
TOLD = (2, 3, DIVERGED, 75)
"""Codes of a stage that has said all itself."""
STATES = ("nothing saved", "saved before", "saved now")

CLIENT = """\
#!/usr/bin/env bash
# Of an engine whose containers do what lies beside it: `run.sh`, and whose daemon may be `down`.
here=$(dirname "$0")
[[ -e $here/down ]] && echo 'Cannot connect to the daemon.' >&2 && exit 1
case $1 in
  version) ;;
  image) exit 1 ;;
  ps) [[ ! -e $here/running ]] || echo c0ffee ;;
  stop | rm) rm -f "$here/running" && echo "$1" >>"$here/ended" ;;
  run) source "$here/run.sh" ;;
esac
"""


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    (tmp_path / "engine").mkdir()
    client = tmp_path / "engine" / "docker"
    client.write_text(CLIENT)
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    return Engine("docker", str(client))


def running(engine: Engine, *lines: str) -> Runtime:
    """The engine, whose containers do this."""
    Path(engine.client).with_name("run.sh").write_text("\n".join(lines))
    return ContainerRuntime(engine)


def ends(engine: Engine | None, code: int, launch: Launch, saves: str) -> Runtime:
    """A stage, in a container or in none, that saves something or not and ends in a code."""
    if engine is None:
        return Ends(code=code, saves=saves)
    note = launch.output / RUN_FOLDER / "scratch" / "saved"
    saving = [f"mkdir -p {note.parent}", f"printf %s '{saves}' >{note}"] if saves else []
    return running(engine, *saving, f"exit {code}")


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", ["local", "container"])
def test_what_is_left_after_any_exit_code(
    tmp_path: Path, engine: Engine, kind: str, state: str, code: int
) -> None:
    launch = begun(tmp_path, "wanda")
    if state == "saved before":
        save(launch.output, PLACE)
    saves = PLACE if state == "saved now" else ""
    runtime = ends(engine if kind == "container" else None, code, launch, saves)
    with pytest.raises(StageFailed) as failed:
        start(runtime, launch)
    assert failed.value.exit_code == CODES[code]
    if state == "nothing saved":
        assert launch.output.exists() == (code in STOPS)
        assert "resume from" not in str(failed.value)
    else:
        assert saved_in(launch.output) == PLACE
        again = f"un the same command to resume from {PLACE}."
        assert str(failed.value).endswith(again) or code in TOLD


@pytest.mark.parametrize("code", [1, 134, 139])
@pytest.mark.parametrize("file", [MANIFEST, f"{RUN_FOLDER}/{MADE}"])
def test_what_was_complete_when_its_process_crashed_is_kept(
    tmp_path: Path, file: str, code: int
) -> None:
    """Libraries crash at the interpreter's end, when the result is there already."""
    launch = begun(tmp_path, "eval")
    (launch.output / file).write_text("{}")
    with pytest.raises(StageFailed):
        start(Ends(code=code), launch)
    assert (launch.output / file).exists()


@pytest.mark.parametrize("code", [1, 3, 125, 255])
def test_a_shared_file_system_may_not_show_what_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    launch = begun(tmp_path, "wanda")
    monkeypatch.setattr(FileSystem, "of", lambda path: FileSystem("nfs4"))
    with pytest.raises(StageFailed):
        start(Ends(code=code), launch)
    assert launch.output.exists()


HOLD = """
import sys, time
from pathlib import Path
from espalier.contract.worker import sole_worker
with sole_worker(Path(sys.argv[1])):
    print("up", flush=True)
    time.sleep(600)
"""


@contextmanager
def living_worker(partial: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of a launcher that has died, which works there yet."""
    folder = str(partial / RUN_FOLDER)
    words = [sys.executable, "-c", HOLD, folder]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("code", [1, 3, 125, 139])
def test_nothing_is_removed_under_a_worker_that_lives(tmp_path: Path, code: int) -> None:
    launch = begun(tmp_path, "wanda")
    with living_worker(launch.output):
        with pytest.raises(StageFailed):
            start(Ends(code=code), launch)
        assert (launch.output / RUN_FOLDER / "run.json").is_file()
    with pytest.raises(StageFailed):
        start(Ends(code=code), launch)
    assert not launch.output.exists()


def test_a_second_worker_gives_up_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "WAIT_SECONDS", 0)
    folder = begun(tmp_path, "wanda").output / RUN_FOLDER
    with living_worker(folder.parent):
        with (
            pytest.raises(EnvironmentFailure, match=r"still works in x\.partial-0; stop it"),
            sole_worker(folder),
        ):
            pass
        with nobody_works(folder) as free:
            assert not free
    with nobody_works(folder) as free:
        assert free


@pytest.mark.parametrize("number", ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL"])
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    """Work goes on; but nobody knows any more that nobody works there."""

    def flock(*given: object) -> None:
        raise OSError(getattr(errno, number), "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    launch = begun(tmp_path, "wanda")
    with sole_worker(launch.output / RUN_FOLDER):
        assert (launch.output / RUN_FOLDER / LOCK).exists()
    with pytest.raises(StageFailed):
        start(Ends(code=1), launch)
    assert launch.output.exists()


def test_a_container_that_outlives_its_client_is_stopped(tmp_path: Path, engine: Engine) -> None:
    launch = begun(tmp_path, "wanda")
    place = Path(engine.client).parent
    runtime = running(engine, f"touch {place}/running; exit 137")
    with pytest.raises(StageFailed):
        start(runtime, launch)
    assert (place / "ended").read_text() == "stop\n"
    assert not may_run(launch.output)


def test_a_daemon_that_goes_down_may_have_left_a_container(tmp_path: Path, engine: Engine) -> None:
    """Some keep theirs while they are restarted; one may be about to save its first layer."""
    launch = begun(tmp_path, "wanda")
    place = Path(engine.client).parent
    runtime = running(engine, f"touch {place}/running {place}/down; exit 125")
    with pytest.raises(StageFailed) as failed:
        start(runtime, launch)
    assert failed.value.exit_code == 3
    assert launch.output.exists()
    save(launch.output, PLACE)  # by that container
    with pytest.raises(EnvironmentFailure) as down:
        start(runtime, launch)
    assert "docker cannot say whether an earlier start still runs: Cannot connect" in str(
        down.value
    )
    assert str(down.value).endswith(f"run the same command to resume from {PLACE}.")
    assert saved_in(launch.output) == PLACE
    (place / "down").unlink()
    assert running(engine, "exit 0").run(launch) == 0
    assert (place / "ended").read_text() == "rm\n"
    assert not may_run(launch.output)


def corpus() -> Request:
    stage = stage_named("corpus")
    return Request(stage, stage.parameters.from_assignments({}), {}, "text")


def test_a_daemon_that_is_down_when_an_image_is_looked_up(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    monkeypatch.setattr(building, "RECORDS", tmp_path / "records")
    stage = stage_named("data")
    for name in ("text", "tokenizer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    inputs = {name: tmp_path / name for name in ("text", "tokenizer")}
    request = Request(stage, stage.parameters.from_assignments({}), inputs, "packed")
    settings = Settings(store=store.root, force=True)
    executor = Executor(store, ContainerRuntime(engine), settings)
    partial = executor.resolve(request).partial
    begun(tmp_path, "data").output.rename(_made(partial.parent) / partial.name)
    save(partial, "document 4 of file 2")
    Path(engine.client).with_name("down").touch()
    with pytest.raises(EnvironmentFailure) as down:
        executor.execute(request)
    assert str(down.value) == (
        "docker does not answer (Cannot connect to the daemon); start it, and run the same command "
        "to resume from document 4 of file 2."
    )
    assert saved_in(partial) == "document 4 of file 2"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@dataclass(frozen=True)
class Late(InsideRuntime):
    """A stage that ends well, and whose manifest appears so many seconds later, or never."""

    after: float | None = None

    def run(self, launch: Launch) -> int:
        (launch.output / "text.txt").write_text("text")
        if self.after is not None:
            write = (launch.output / MANIFEST).write_text
            threading.Timer(self.after, write, ["{}"]).start()
        return 0


@pytest.fixture
def nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileSystem, "of", lambda path: FileSystem("nfs4"))
    monkeypatch.setattr(visible, "LOOK_AGAIN_SECONDS", 0.01)


@pytest.mark.usefixtures("nfs")
def test_a_manifest_that_is_seen_late_is_waited_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    executor = Executor(store, Late(after=0.3), Settings(store=tmp_path))
    target = executor.execute(corpus())
    assert (target / MANIFEST).is_file()
    assert not store.partials(target)


def test_a_name_that_was_not_there_is_looked_for_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a listing of the folder, since what is asked for by name is answered from memory."""
    listings = iter([OSError(116, "Stale file handle"), [], [MANIFEST]])

    def listdir(path: Path) -> list[str]:
        listing = next(listings)
        if isinstance(listing, OSError):
            raise listing
        return listing

    (tmp_path / MANIFEST).write_text("{}")
    monkeypatch.setattr(FileSystem, "of", lambda path: FileSystem("nfs4"))
    monkeypatch.setattr(visible, "LOOK_AGAIN_SECONDS", 0)
    monkeypatch.setattr(os, "listdir", listdir)
    visible.require_manifest(tmp_path)
    assert next(listings, None) is None


@pytest.mark.usefixtures("nfs")
def test_no_manifest_at_all_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visible, "SEEN_SECONDS", 0.05)
    store = Store(tmp_path)
    executor = Executor(store, Late(), Settings(store=tmp_path))
    with pytest.raises(
        EnvironmentFailure, match=r"no manifest\.json is seen in .*, where all that"
    ):
        executor.execute(corpus())
    (partial,) = store.partials(store.path("data", "text"))
    assert (partial / "text.txt").read_text() == "text"


def test_on_a_disk_of_its_own_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileSystem, "of", lambda path: FileSystem("ext4"))
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited"))
    with pytest.raises(EnvironmentFailure, match="is kept"):
        visible.require_manifest(tmp_path)
