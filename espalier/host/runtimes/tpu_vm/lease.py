"""launcher.json in a run's folder: the one launcher that follows it, and its sign of life.

It is taken and renewed by preconditions on the object's version, so that of two launchers one has
it; a worker that sees it unchanged for hours knows that nobody follows.
"""

import contextlib
import os
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from espalier.errors import EnvironmentFailure
from espalier.host.runtimes.tpu_vm.folder import Folder
from espalier.host.runtimes.tpu_vm.records import parsed

NAME = "launcher.json"
TRIES = 3


class Displaced(EnvironmentFailure):
    """Another launcher has the run by now, and what belongs to it."""


class Holder(BaseModel):
    """launcher.json.

    Attributes:
        token: of the process alone.
        boot: of the host since it was started.
        renewed: counts, so that each renewal is another text.
    """

    token: str
    host: str
    boot: str
    pid: int
    renewed: int = 0

    @property
    def here(self) -> bool:
        """Whether it is a process of this host, dead or alive."""
        return (self.host, self.boot) == (socket.gethostname(), _boot())

    @property
    def alive(self) -> bool:
        """Whether such a process of this host is there."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


@dataclass
class Lease:
    """The hold of a process on a folder.

    Attributes:
        seconds: after which one on another host that was not renewed is over.
    """

    folder: Folder
    seconds: float
    holder: Holder = field(
        default_factory=lambda: Holder(
            token=secrets.token_hex(8), host=socket.gethostname(), boot=_boot(), pid=os.getpid()
        )
    )
    version: str = ""

    def take(self) -> None:
        """Have it, unless another launcher does.

        Raises:
            EnvironmentFailure: one does, or may.
        """
        text, self.version = self.folder.version(NAME)
        other = parsed(Holder, text)
        if other and other.token != self.holder.token and (why := self._held_by(other)):
            raise EnvironmentFailure(f"{self.folder.url} is followed by {why}.")
        if not self._put():
            raise EnvironmentFailure(
                f"{self.folder.url} is followed by another command since this moment; see its "
                "output, or wait for its end."
            )

    def renew(self, folder: Folder | None = None) -> None:
        """Show that this launcher is at work, in the folder by its own patience or another's.

        Raises:
            Displaced: another has taken it.
        """
        if not self._put(folder):
            raise Displaced(
                f"{self.folder.url} is followed by another launcher by now, which has its TPU too; "
                "this one leaves both to it."
            )

    def release(self) -> None:
        """Let the next one have it at once; where that cannot be written, after a while."""
        with contextlib.suppress(EnvironmentFailure):
            other = parsed(Holder, self.folder.read(NAME))
            if other and other.token == self.holder.token:
                self.folder.remove(NAME)

    def _put(self, folder: Folder | None = None) -> bool:
        """Write it over the version that this process knows, or over its own, or over none.

        Raises:
            EnvironmentFailure: what is written does not stay.
        """
        place = folder or self.folder
        self.holder = self.holder.model_copy(update={"renewed": self.holder.renewed + 1})
        for _ in range(TRIES):
            place.replace(NAME, self.holder.model_dump_json(), self.version)
            found, self.version = place.version(NAME)
            there = parsed(Holder, found)
            if there and there.token != self.holder.token:
                return False
            if there and there.renewed == self.holder.renewed:
                return True
        raise EnvironmentFailure(
            f"{self.folder.url}/{NAME} cannot be read or written: it does not stay; does another "
            "program, or a life-cycle rule, clear BUCKET?"
        )

    def _held_by(self, other: Holder) -> str:
        """Who has it, and what to do; empty where he is gone."""
        if other.here:
            return f"process {other.pid} of this machine; wait for it or stop it" * other.alive
        written = self.folder.written(NAME)
        age = (self.folder.now() - written).total_seconds() if written else self.seconds
        if age >= self.seconds:
            return ""
        return (
            f"a command on {other.host}, seen {age:.0f} s ago; stop it there, or where it is dead "
            f"give this again in {self.seconds - age:.0f} s"
        )


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""
