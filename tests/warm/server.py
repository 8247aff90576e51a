"""A warm interpreter: `python -m tests.warm.server SOCKET` imports what stages do, once.

For each command that `tests.warm.relay` asks for it forks, and the child runs the command as
`python -m MODULE WORDS…` would: a process of its own with the caller's variables, folder and
streams, which signals reach and which dies with its relay.
"""

import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import importlib.util
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from espalier.contract import processes
from espalier.contract.discovery import stages
from tests.warm.interpreters import FIRST, HOST, READ_AT_IMPORT, warmed

GIVEN = dict(os.environ)
"""What packages have been imported under; some set variables themselves."""
AT_USE = (
    "lm_eval.evaluator",
    "matplotlib.pyplot",
    "safetensors.torch",
    "transformers.models.llama.modeling_llama",
)
"""What the stages' modules import at use only."""
SETTLING = 600
"""Tenths of a second that threads of imported packages may take to start or end."""
SET_SIGNAL = 10
"""fcntl's F_SETSIG."""


@dataclass(frozen=True)
class Asked:
    """A command, its caller's streams, and what is read to its end when its relay is gone."""

    module: str
    words: list[str]
    cwd: str
    variables: dict[str, str]
    streams: list[int]
    life: int

    @classmethod
    def read(cls, connection: socket.socket) -> "Asked":
        _, (*streams, life), *_ = socket.recv_fds(connection, 1, 4)
        with connection.makefile() as request:
            return cls(**json.load(request), streams=streams, life=life)

    def fits(self) -> bool:
        """Whether the packages would be the same under the command's variables; if not, say why."""
        theirs, ours = seen(self.variables).items(), seen(GIVEN).items()
        if self.module != HOST and theirs != ours:
            print(f"{self.module} has other variables: {sorted(theirs ^ ours)}", flush=True)
        return self.module == HOST or theirs == ours

    def close(self) -> None:
        for number in (*self.streams, self.life):
            os.close(number)


def seen(variables: Any) -> dict[str, str]:
    """Those that are looked at on import."""
    return {name: value for name, value in variables.items() if name.startswith(READ_AT_IMPORT)}


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """Leaves to warm interpreters what they can run."""

    def __init__(self, args: Any, *given: Any, **named: Any) -> None:
        super().__init__(warmed(args), *given, **named)


def main(path: Path) -> None:
    """Serve until this process is ended."""
    processes.end_with_parent(signal.SIGTERM)
    subprocess.Popen = Popen  # type: ignore[misc] # before others import it by name
    load()
    gc.collect()
    gc.freeze()
    warnings.filterwarnings("ignore", "This process .* multi-threaded", DeprecationWarning)
    for _ in range(SETTLING):  # a new thread has its own name in a moment, or has ended
        if not (lost := threads()):
            break
        time.sleep(0.1)
    else:
        sys.exit(f"a fork would be without the threads {lost}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path.with_suffix(".bound")))
        listener.listen(64)
        path.with_suffix(".bound").rename(path)
        asked = serve(listener)
    run(asked)


def threads(tasks: Path = Path("/proc/self/task"), own: int | None = None) -> list[str]:
    """Names of those beside our own; jemalloc's, which comes with pyarrow, outlives a fork."""
    number = str(own or os.getpid())
    names = [(task / "comm").read_text() for task in tasks.iterdir() if task.name != number]
    return sorted(name.strip() for name in names if not name.startswith("jemalloc"))


def load() -> None:
    """Import the host's commands, and whatever stages this interpreter has the packages of."""
    importlib.import_module("espalier.host.cli")
    if importlib.util.find_spec("composer"):  # whose torchvision transformers would import
        importlib.import_module("methods.sheared_llama.torchvision_operators")
    entries = {stage.entry.partition(":")[0] for stage in stages().values()}
    for name in (*sorted(entries), *AT_USE):  # a stage may declare what those need
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if jax := sys.modules.get("jax"):  # small programs are worth keeping too, as there are so many
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def serve(listener: socket.socket) -> Asked:
    """Fork for each command; returns in the children alone."""
    with selectors.DefaultSelector() as waiting:
        waiting.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.data:
                    answer_end(*key.data)
                    waiting.unregister(key.fd)
                    os.close(key.fd)
                    continue
                connection, _ = listener.accept()
                asked = Asked.read(connection)
                pid = os.fork() if asked.fits() else None
                if pid == 0:
                    for other in (
                        connection,
                        *(k.data[0] for k in waiting.get_map().values() if k.data),
                    ):
                        other.close()
                    return asked
                asked.close()
                if pid is None:
                    connection.close()
                    continue
                answer(connection, pid)
                ended = os.pidfd_open(pid)
                waiting.register(ended, selectors.EVENT_READ, (connection, pid))


def answer_end(connection: socket.socket, pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    answer(connection, os.waitstatus_to_exitcode(status))
    connection.close()


def answer(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # a relay that was killed wants none
        connection.sendall(b"%d\n" % number)


def call_itself(argv: list[str]) -> None:
    """Have /proc and ps show another command: over this process's own, as long as that is."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = (int(fields[number - 3]) for number in (48, 49))
    text = "\0".join(argv).encode()[: end - start - 1]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def run(asked: Asked) -> None:
    """Be the command, in the process that was forked for it."""
    os.setsid()
    call_itself([sys.executable, "-m", asked.module, *asked.words])
    for number, stream in enumerate(asked.streams):
        os.dup2(stream, number)
        os.close(stream)

    def end_with_relay(number: int) -> None:
        """As Linux ends a process with its parent: the relay stands between the two."""
        fcntl.fcntl(asked.life, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(asked.life, SET_SIGNAL, number)
        fcntl.fcntl(asked.life, fcntl.F_SETFL, os.O_ASYNC)

    end_with_relay(signal.SIGKILL)
    processes.end_with_parent(signal.SIGKILL)
    processes.end_with_parent = end_with_relay
    os.environ.clear()
    os.environ.update(asked.variables)
    os.chdir(asked.cwd)
    sys.argv[1:] = asked.words
    sys.modules.pop(asked.module, None)
    for first in filter(None, os.environ.get(FIRST, "").split(",")):
        run_first(first)
    try:
        runpy.run_module(asked.module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            raise
        leave(ended.code or 0)
    leave(0)


def run_first(name: str) -> None:
    """A module, or a file of Python whose names stay as long as this process."""
    if name.endswith(".py"):
        exec(compile(Path(name).read_text(), name, "exec"), {"__name__": name})
    else:
        importlib.import_module(name)


def leave(code: int) -> NoReturn:
    """End as Python does, but take no object apart: that would copy each page of the fork."""
    threading._shutdown()  # type: ignore[attr-defined] # waits for those that are no daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
