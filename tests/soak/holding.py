"""The soak's side of a moment: waits until a command is held there, and lets it go on."""

import contextlib
import json
import secrets
import select
import socket
import subprocess
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak import moment

POLL_SECONDS = 0.02


@dataclass(frozen=True)
class When:
    """The write at which a command is held.

    Attributes:
        role: launcher, stage or rank.
        number: which of the command's processes of that role, in the order of their start.
        at: which of its writes, from 1.
    """

    role: str
    number: int
    at: int

    def __str__(self) -> str:
        return f"write {self.at} of {self.role} {self.number}"


NEVER = When("", 0, 0)


@dataclass
class Held:
    """A process that waits at its moment; signals reach it."""

    pid: int
    connection: socket.socket = field(repr=False)

    def release(self, errno: int = 0, times: int = 0) -> None:
        """Let it go on, its next so many writes ending in that error; -1: all of them."""
        answer = json.dumps({"errno": errno, "times": times}).encode()
        with self.connection, contextlib.suppress(OSError):  # it may have been killed
            self.connection.sendall(answer + b"\n")


@dataclass
class Watch:
    """What one command is told, and what it says.

    Attributes:
        folder: of the notes of its processes.
    """

    listener: socket.socket
    variables: dict[str, str]
    folder: Path

    def held(self, process: "subprocess.Popen[Any]") -> Held | None:
        """The process that came to its moment; None: the command has ended without."""
        while True:
            ready, _, _ = select.select([self.listener], [], [], POLL_SECONDS)
            if ready:
                connection, _ = self.listener.accept()
                return Held(int(connection.makefile().readline()), connection)
            if process.poll() is not None:
                return None

    def writes(self) -> list[tuple[str, int, int]]:
        """Of each of the command's processes: its role, which it was, and how many it has made."""
        return sorted(
            (role, int(number), int(note.read_text() or 0))
            for note in self.folder.iterdir()
            for role, _, number in [note.name.rpartition("-")]
        )


@contextmanager
def watching(store: Path, folder: Path, when: When = NEVER) -> Iterator[Watch]:
    """Hold the next command at that moment; with NEVER, only count its writes."""
    folder.mkdir(parents=True)
    address = f"espalier-soak-{secrets.token_hex(8)}"
    asked = {
        "store": str(store), "folder": str(folder), "role": when.role, "number": when.number,
        "at": when.at, "address": address,
    }  # fmt: skip
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{address}")
        listener.listen()
        yield Watch(listener, {moment.VARIABLE: json.dumps(asked)}, folder)


def moments(writes: Sequence[tuple[str, int, int]], roles: Collection[str]) -> list[When]:
    """Every moment of a command at which one of those roles can be held."""
    return [
        When(role, number, at)
        for role, number, count in writes
        if role in roles
        for at in range(1, count + 1)
    ]
