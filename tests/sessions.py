"""Sessions of pytest side by side, each with the packages of one image, and their sums."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests import green
from tests.slots import make_slots

CORES = min(len(os.sched_getaffinity(0)), 8)
"""How many tests run at once: each loads torch, so memory bounds them on larger machines."""
AT_ONCE = 2
"""Sessions side by side: one fills the cores that the other has no test left for."""
PARALLEL = ("-n", str(CORES), "--dist", "worksteal")
NOTHING_COLLECTED = 5
"""Pytest's exit code."""
COUNTED_AS = {"error": "failed", "errors": "failed", "xfailed": "skipped", "xpassed": "passed"}


@dataclass(frozen=True)
class Session:
    """Some tests with some image's packages.

    Attributes:
        python: makes the environment, where it is not there yet, and gives its python.
        words: pytest's.
        state: of all that the tests depend on; where it is not known, they always run.
    """

    name: str
    python: Callable[[], Path]
    words: tuple[str, ...]
    state: str | None = None

    def command(self) -> list[str]:
        return [str(self.python()), "-m", "pytest", *self.words]


@dataclass(frozen=True)
class Outcome:
    """How a session ended: its counts, and what pytest says of each test that failed."""

    code: int
    counts: Counter[str] = field(default_factory=Counter)
    failures: tuple[str, ...] = ()


def run_all(sessions: Iterable[Session]) -> int:
    """Run them, print what failed and, as the last line, the sums; the worst exit code."""
    with TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as runners:
        environment = {**os.environ, **make_slots(Path(folder), CORES)}
        outcomes = list(runners.map(lambda session: _run(session, environment), sessions))
    total = sum((outcome.counts for outcome in outcomes), Counter[str]())
    print(*(line for outcome in outcomes for line in outcome.failures), sep="", end="")
    print(", ".join(f"{total[kind]} {kind}" for kind in ("passed", "failed", "skipped")))
    return exit_code(outcome.code for outcome in outcomes)


def exit_code(codes: Iterable[int]) -> int:
    """The worst of the runs; one of them may well have found no test, but not all."""
    found = set(codes)
    return max(found - {NOTHING_COLLECTED} or found)


def counted(line: str) -> Counter[str] | None:
    """What pytest's last line says: how many tests passed, failed and were skipped."""
    if not re.fullmatch(r"=*\s*(\d+ \w+(, )?)+ in [\d.]+s( \([\d:]+\))?\s*=*", line.strip()):
        return None
    counts = Counter[str]()
    for number, kind in re.findall(r"(\d+) (\w+)", line.partition(" in ")[0]):
        counts[COUNTED_AS.get(kind, kind)] += int(number)
    return counts


def _run(session: Session, environment: dict[str, str]) -> Outcome:
    known = session.state and green.recorded(session.name, session.state)
    if known:
        _say(session, f"nothing changed since {known['passed']} passed; {green.INSTEAD}")
        return Outcome(0, Counter(skipped=known["passed"]))
    counts, failures = Counter[str](), list[str]()
    with subprocess.Popen(
        session.command(),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as child:
        for line in child.stdout or ():
            if line.strip():
                _say(session, line.rstrip())
            if line.startswith(("FAILED ", "ERROR ")):
                failures.append(f"{session.name}: {line}")
            counts = counted(line) or counts
    code = child.returncode
    if code == 0 and session.state:
        green.record(session.name, session.state, passed=counts["passed"])
    if code not in (0, NOTHING_COLLECTED) and not counts["failed"]:
        counts["failed"] += 1  # it ended before it could say so
    return Outcome(code, counts, tuple(failures))


def _say(session: Session, line: str) -> None:
    sys.stdout.write(f"{session.name}: {line}\n")
    sys.stdout.flush()
