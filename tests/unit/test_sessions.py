"""Sessions of tests side by side: their sums, their slots, and what need not run again."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from espalier.contract.paths import ROOT
from tests import green
from tests.sessions import Session, counted, exit_code, run_all
from tests.slots import VARIABLE, make_slots, slot


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("155 passed, 7 skipped in 302.07s (0:05:02)", {"passed": 155, "skipped": 7}),
        ("=== 1 failed, 2 passed, 1 error in 0.1s ===", {"passed": 2, "failed": 2}),
        ("1 xfailed, 1 xpassed, 3 deselected in 1.00s", {"passed": 1, "skipped": 1}),
        ("no tests ran in 0.01s", None),
        ("1 of 3 passed in the end", None),
        ("........ [100%]", None),
    ],
)
def test_the_last_line_is_counted(line: str, expected: dict[str, int] | None) -> None:
    found = counted(line)
    if found is not None:
        del found["deselected"]  # counted, and not summed
    assert found == expected


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions here need none of pytest's plugins, whose imports take seconds."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


def python() -> Path:
    return Path(sys.executable)


def session(folder: Path, name: str, body: str, state: str | None = None) -> Session:
    file = folder / f"test_{name}.py"
    file.write_text(body)
    alone = ("-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(folder), "-q")
    return Session(name, python, (*alone, str(file)), state)


PASSING = "def test_a(): pass\ndef test_b(): pass\n"


def test_the_sums_are_the_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sessions = [
        session(tmp_path, "good", PASSING),
        session(tmp_path, "bad", "def test_c(): assert False\n"),
        session(tmp_path, "broken", "import nothing_of_that_name\n"),
        session(tmp_path, "empty", ""),
    ]
    assert run_all(sessions) == 2  # pytest's code of a file that cannot be imported
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "2 passed, 2 failed, 0 skipped"
    assert lines[-3].startswith("bad: FAILED ")  # again, where it is looked for
    assert "test_bad.py::test_c" in lines[-3]
    assert lines[-2].startswith("broken: ERROR ")


def test_a_session_that_dies_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dying = session(tmp_path, "dying", "import os\ndef test_a(): os._exit(9)\n")
    assert run_all([dying]) == 9
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 1 failed, 0 skipped"


def test_what_passed_in_the_same_state_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(green.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv("FRESH", raising=False)

    def last_line(state: str, body: str = PASSING) -> str:
        run_all([session(tmp_path, "kept", body, state)])
        return capsys.readouterr().out.splitlines()[-1]

    assert last_line("one") == "2 passed, 0 failed, 0 skipped"
    assert last_line("one") == "0 passed, 0 failed, 2 skipped"
    monkeypatch.setenv("FRESH", "1")
    assert last_line("one") == "2 passed, 0 failed, 0 skipped"
    monkeypatch.delenv("FRESH")
    assert last_line("two", "def test_a(): assert False\n") == "0 passed, 1 failed, 0 skipped"
    assert last_line("two") == "2 passed, 0 failed, 0 skipped"  # a failure is never remembered


def test_a_command_that_failed_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(green.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv("FRESH", raising=False)
    runs, fails = tmp_path / "runs", tmp_path / "fails"
    fails.touch()
    script = f"echo run >>{runs}; ! test -e {fails}"
    words = ["here", "Makefile", "--", "bash", "-c", script]
    assert green.main(words) == 1
    fails.unlink()
    assert green.main(words) == 0
    assert green.main(words) == 0
    assert green.main([*words[:1], "README.md", *words[1:]]) == 0  # more files: another state
    assert runs.read_text().split() == ["run"] * 3


def test_a_state_is_of_names_and_contents() -> None:
    first, second = green.tracked("Makefile"), green.tracked("README.md")
    assert [path.name for path in (*first, *second)] == ["Makefile", "README.md"]
    states = [green.state(first), green.state(second), green.state(first, "other"), green.state([])]
    assert len(set(states)) == 4
    assert green.state(first) == states[0]


def test_no_more_run_at_once_than_there_are_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder in another process is waited for; when it dies, its slot is free."""
    slots = tmp_path / "slots"
    slots.mkdir()
    environment = make_slots(slots, 1)
    monkeypatch.setenv(VARIABLE, environment[VARIABLE])
    program = (
        "import time\nfrom tests.slots import slot\n"
        "with slot():\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    killed, ended = threading.Event(), []

    def take() -> None:
        with slot():  # free a moment before the holder's end is known: polling it would be a race
            ended.append(killed.is_set())

    waiting = threading.Thread(target=take)
    waiting.start()
    time.sleep(0.3)
    assert not ended
    killed.set()
    holder.kill()
    assert holder.wait() == -signal.SIGKILL
    waiting.join(timeout=60)
    assert ended == [True]


@pytest.mark.parametrize(
    ("codes", "expected"), [([0, 5], 0), ([5, 5], 5), ([5, 1], 1), ([0, 2], 2), ([0], 0)]
)
def test_one_run_may_find_no_test(codes: list[int], expected: int) -> None:
    assert exit_code(codes) == expected


def test_a_record_is_one_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(green.VARIABLE, str(tmp_path))
    monkeypatch.delenv("FRESH", raising=False)
    for state in ("one", "two"):
        green.record("name", state, passed=3)
    (file,) = (tmp_path / "green").iterdir()
    assert json.loads(file.read_text()) == {"state": "two", "passed": 3}
    assert green.recorded("name", "one") is None
    assert green.recorded("name", "two") == {"state": "two", "passed": 3}
