"""Threads that behave as a slice's workers do: they report, wait for each other, and end."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.tpu.fake_server import Slice

Work = Callable[["Worker"], int | None]
"""A worker's stage: its exit code, or None for a worker that is never heard of again."""


@dataclass
class Worker:
    """One of them, at work on a slice's order."""

    number: int
    order: Mapping[str, str]
    gone: threading.Event

    @property
    def run(self) -> Path:
        return Path(self.order["run"])

    @property
    def attempt(self) -> int:
        return int(self.order["attempt"])

    def beat(self, state: str) -> None:
        told = {"state": state, "time": datetime.now(UTC).isoformat(), "attempt": self.attempt}
        self.put(f"workers/{self.number}.json", json.dumps(told))

    def end(self, code: int, why: str = "") -> None:
        self.put(f"exits/{self.attempt}/{self.number}.json", json.dumps({"code": code, "why": why}))

    def put(self, name: str, text: str) -> None:
        path = self.run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_text(text)
        temporary.replace(path)

    @property
    def asked_to_stop(self) -> bool:
        return (self.run / "stop" / str(self.attempt)).exists()

    def goes_on(self, seconds: float) -> bool:
        """Report until the time is over; False as soon as the host is taken away."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.beat("running")
            if self.gone.wait(0.02):
                return False
            if self.asked_to_stop:
                return True
        return True


def succeeds(worker: Worker) -> int | None:
    """Leaves a result, as worker 0's script does."""
    if not worker.goes_on(0.15):
        return None
    if worker.asked_to_stop:
        return 75
    if worker.number == 0:
        worker.put("output/result.txt", f"made at attempt {worker.attempt}")
    return 0


@dataclass
class Workers:
    """The workers of whatever slice a server brings up.

    Attributes:
        works: for each slice in turn, what its workers do; the last for all further ones.
    """

    bucket: Path
    count: int
    works: list[Work] = field(default_factory=lambda: [succeeds])
    started: int = 0
    _gone: dict[str, threading.Event] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)

    def up(self, each: Slice) -> None:
        """For the server's `active`."""
        work = self.works[min(self.started, len(self.works) - 1)]
        self.started += 1
        gone = self._gone[each.name] = threading.Event()
        text = (self.bucket / "tpus" / each.name / "work").read_text()
        order = dict(line.split("=", 1) for line in text.splitlines())
        for number in range(self.count):
            arguments = (Worker(number, order, gone), work)
            thread = threading.Thread(target=self._serve, args=arguments, daemon=True)
            self._threads.append(thread)
            thread.start()

    def down(self, each: Slice) -> None:
        """For the server's `deleted`."""
        if each.name in self._gone:
            self._gone[each.name].set()

    def join(self) -> None:
        for gone in self._gone.values():
            gone.set()
        for thread in self._threads:
            thread.join(5)

    @staticmethod
    def _serve(worker: Worker, work: Work) -> None:
        code = work(worker)
        if code is not None and not worker.gone.is_set():
            worker.end(code)


def half(worker: Worker) -> int | None:
    """Workers 1 and 3 never report."""
    while worker.number % 2 == 0 and not worker.gone.wait(0.05):
        worker.beat("ready")
    return None


def phase(bucket: Path) -> str:
    return str(json.loads((bucket / "runs/run-1/launch.json").read_text())["phase"])
