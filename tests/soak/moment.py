"""Loaded into a command's process: holds it at one of its writes to a store, to be struck there.

Counted are the writes that Python makes: files opened to be written, what is written to them, files
synced, renamed and removed, folders made. So a fault strikes at the same place when it is repeated.
At that write the process tells the soak its number and waits for an answer: to go on, or to have
this write and perhaps all that follow fail.

It is imported before anything else, and imports little.
"""

import atexit
import builtins
import errno
import io
import json
import os
import socket
from collections.abc import Callable
from typing import Any

VARIABLE = "ESPALIER_SOAK_MOMENT"
ROLES = {
    "espalier": "launcher",
    "espalier.run_stage": "stage",
    "training.gpu_fsdp.worker": "rank",
    "methods.sheared_llama.worker": "rank",
}
"""What a process is, by the module that it runs."""
CHANGES = ("fsync", "fdatasync", "rename", "replace", "mkdir", "unlink", "remove", "rmdir", "write")
"""Functions of `os` that are counted, beside `open`; their first argument says where."""
FAILING = {
    errno.ENOSPC: {"open", "write", "mkdir", "rename", "replace"},
    errno.EIO: {"write", "fsync", "rename", "replace"},
}
"""The calls that can end in an error."""


class Moment:
    """Counts this process's writes below `store`.

    Args:
        folder: where processes of this command note how many writes they have made.
        role: whose moment it is, and `number`, which of these processes; `at`, at which write.
        address: of the soak.
    """

    def __init__(
        self, *, store: str, folder: str, role: str, number: int, at: int, address: str
    ) -> None:
        self.store, self.address, self.seen = f"{store}/", f"\0{address}", 0
        mine = ROLES.get(module_of_this_process(), "other")
        taken = 0
        while not claimed(note := f"{folder}/{mine}-{taken}"):
            taken += 1
        self.at = at if (mine, taken) == (role, number) else 0
        self.number, self.times = 0, 0
        self.pid = os.getpid()
        atexit.register(self.keep, note)

    def keep(self, note: str) -> None:
        """Note how many writes there were; a fork of this process has nothing to say."""
        if os.getpid() == self.pid:
            with OPEN(note, "w") as file:
                file.write(str(self.seen))

    def before(self, call: str, path: str) -> None:
        """To be called before each write.

        Raises:
            OSError: this one is to fail.
        """
        if not path.startswith(self.store) or os.getpid() != self.pid:
            return
        self.seen += 1
        if self.seen == self.at:
            self.hold()
        if self.times and call in FAILING[self.number]:
            self.times -= 1
            raise OSError(self.number, os.strerror(self.number), path)

    def hold(self) -> None:
        """Tell the soak, and do as it answers; without it, go on."""
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(self.address)
                connection.sendall(b"%d\n" % os.getpid())
                answer = connection.makefile().readline()
            except OSError:
                return
        if answer:
            told = json.loads(answer)
            self.number, self.times = told["errno"], told["times"]


OPEN, READ_LINK = builtins.open, os.readlink


def module_of_this_process() -> str:
    """What `python -m` runs, or a warm interpreter in its place."""
    with OPEN("/proc/self/cmdline", "rb") as file:
        words = file.read().decode(errors="replace").split("\0")
    return words[words.index("-m") + 1] if "-m" in words[:-1] else ""


def claimed(note: str) -> bool:
    """Whether no other process of this command has taken the name."""
    try:
        os.close(os.open(note, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def place_of(path: Any, dir_fd: int | None = None) -> str:
    """The absolute path of a call's first argument; nothing where it is no file's."""
    try:
        if isinstance(path, int):
            return READ_LINK(f"/proc/self/fd/{path}")
        if (text := os.fsdecode(path)).startswith("/"):
            return text
        below = "cwd" if dir_fd is None else f"fd/{dir_fd}"
        return f"{READ_LINK(f'/proc/self/{below}')}/{text}"
    except (OSError, TypeError):
        return ""


def counted(call: str, real: Callable[..., Any], moment: Moment) -> Callable[..., Any]:
    """A function of `os` that is counted."""

    def stand_in(*given: Any, **named: Any) -> Any:
        place = given[0] if given else named.get("path", named.get("src"))
        dir_fd = named.get("dir_fd", named.get("src_dir_fd"))
        moment.before(call, place_of(place, dir_fd))
        return real(*given, **named)

    return stand_in


def opening(moment: Moment) -> Callable[..., Any]:
    """`open`, of whose files what is written is counted."""

    def stand_in(file: Any, mode: str = "r", *given: Any, **named: Any) -> Any:
        if not set(mode) & set("wax+"):
            return OPEN(file, mode, *given, **named)
        path = place_of(file)
        moment.before("open", path)
        opened = OPEN(file, mode, *given, **named)
        if path.startswith(moment.store):
            write = opened.write

            def counting(content: Any) -> Any:
                moment.before("write", path)
                return write(content)

            opened.write = counting
        return opened

    return stand_in


def opening_of_os(real: Callable[..., int], moment: Moment) -> Callable[..., int]:
    """`os.open`, where it is to write."""

    def stand_in(path: Any, flags: int, *given: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            moment.before("open", place_of(path, named.get("dir_fd")))
        return real(path, flags, *given, **named)

    return stand_in


def install(asked: dict[str, Any]) -> None:
    """Count what this process writes from now on."""
    moment = Moment(**asked)
    for name in CHANGES:
        setattr(os, name, counted(name, getattr(os, name), moment))
    os.open = opening_of_os(os.open, moment)
    builtins.open = io.open = opening(moment)  # type: ignore[assignment]


if text := os.environ.get(VARIABLE):
    install(json.loads(text))
