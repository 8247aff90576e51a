"""Gives commands as a user would, and keeps what they say."""

import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from espalier.contract.threads import THREADS, thread_variables
from tests.contract.command import quiet_environment
from tests.planted import plant
from tests.run import MAIN, overlay
from tests.soak import clock
from tests.soak.holding import watching
from tests.soak.kinds import IMAGES, Inputs
from tests.warm.interpreters import FIRST, warm_up, warmed

LOADED = "tests.soak.moment,tests.soak.clock"
SECONDS = 240
"""That a command may take."""


@dataclass(frozen=True)
class Ending:
    """How a command ended: its exit code (less than 0: by that signal) and what it said."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def published(self) -> str:
        """The last line on stdout."""
        return (self.out.splitlines() or [""])[-1]


@dataclass
class Running:
    """A command that was given, and what it says meanwhile."""

    words: tuple[str, ...]
    process: "subprocess.Popen[bytes]"
    log: Path

    def end(self) -> Ending:
        """Wait for it.

        Raises:
            subprocess.TimeoutExpired: it hangs.
        """
        code = self.process.wait(SECONDS)
        out, err = (self.log.with_suffix(f".{name}").read_text() for name in ("out", "err"))
        return Ending(self.words, code, out, err)


STARTING = threading.Lock()
"""Held while a warm interpreter is started that all lanes share."""


@cache
def warm_python(image: str) -> str:
    """The image's Python, of which a warm interpreter is there then."""
    python = str(overlay(image))
    warm_up(python, **{THREADS: "1"}, **thread_variables(1))
    return python


def python_with(image: str) -> str:
    """As `warm_python`, which one lane at a time may call."""
    with STARTING:
        return warm_python(image)


@dataclass
class Commands:
    """Starts commands on one store.

    Attributes:
        logs: where what they say is kept.
        counts: folder of the notes of their processes.
    """

    store: Path
    logs: Path
    counts: Path
    inputs: Inputs
    _given: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(
        self,
        *words: str,
        variables: Mapping[str, str] | None = None,
        runtime: str = "inside",
        offset: float = 0,
    ) -> Running:
        """Give the command, its clock wrong by `offset` seconds."""
        loaded = {FIRST: LOADED, clock.VARIABLE: str(offset)} if variables or offset else {}
        module = ("-m", "espalier", *words, f"RUNTIME={runtime}", f"STORE={self.store}")
        argv = warmed([python_with(IMAGES.get(words[0], MAIN)), *module])
        return self.begin(words, argv, {**loaded, **(variables or {})})

    def begin(
        self, words: tuple[str, ...], argv: list[str], variables: Mapping[str, str]
    ) -> Running:
        """Start what `words` stand for, in an environment with secrets."""
        with self._lock:
            self._given += 1
            log = self.logs / f"{self._given:04d}-{words[0]}"
        self.logs.mkdir(parents=True, exist_ok=True)
        hub = {"HF_ENDPOINT": self.inputs.hub.url, "NO_PROXY": "*"} if words[0] == "fetch" else {}
        with log.with_suffix(".out").open("wb") as out, log.with_suffix(".err").open("wb") as err:
            process = subprocess.Popen(
                argv,
                env=quiet_environment() | plant() | hub | dict(variables),
                stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip
        return Running(words, process, log)

    def give(self, *words: str, runtime: str = "inside", offset: float = 0) -> Ending:
        """Give the command and wait for its end."""
        return self.start(*words, runtime=runtime, offset=offset).end()

    def counted(self, *words: str, name: str) -> tuple[Ending, list[tuple[str, int, int]]]:
        """Its end, and how many writes each of its processes made."""
        with watching(self.store, self.counts / name) as watch:
            ending = self.start(*words, variables=watch.variables).end()
            return ending, watch.writes()
