"""What of this machine a stage's container sees, told so that no engine reads another path."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from espalier.errors import InputError
from espalier.host.runtimes.base import Launch

SECRETS = "/run/secrets"


@dataclass(frozen=True)
class Mount:
    """A file or a directory of this machine, and where a container has it."""

    source: Path
    target: str
    writable: bool = False

    def flag(self) -> str:
        """`--mount=…` as docker, podman and apptainer read it: fields in a line of CSV.

        Raises:
            InputError: they would read another path than this.
        """
        for text in (str(self.source.resolve()), self.target):
            if fault := _fault(text):
                raise refused(text, f"{fault}, which no engine can mount", "RUNTIME=local")
        fields = ["type=bind", f"source={self.source.resolve()}", f"target={self.target}"]
        line = io.StringIO()
        csv.writer(line).writerow([*fields, *([] if self.writable else ["readonly"])])
        return f"--mount={line.getvalue().removesuffix(END)}"


END = csv.excel.lineterminator


@runtime_checkable
class Mounting(Protocol):
    """A runtime whose stages see this machine's files by mounts."""

    def require_mountable(self, launch: Launch) -> None:
        """Refuse a path that it cannot mount, before anything is built or paid for.

        Raises:
            InputError: there is one.
        """


def mounts_of(launch: Launch) -> Iterator[Mount]:
    """The inputs, the output, and the files with secrets."""
    for role, path in launch.inputs.items():
        yield Mount(path, container_path(role, path))
    yield Mount(launch.output, "/out", writable=True)
    for variable, path in launch.secrets.items():
        yield Mount(path, secret_path(variable))


def container_path(role: str, path: Path) -> str:
    """`/in/<role>`; a file keeps its name below it, since its suffix says what it is."""
    return f"/in/{role}/{path.name}" if path.is_file() else f"/in/{role}"


def secret_path(variable: str) -> str:
    """Where the file is that a variable names."""
    return f"{SECRETS}/{variable.lower()}"


def refused(path: str, why: str, instead: str) -> InputError:
    """Of a path that cannot be mounted; shown on one line, whatever is in it."""
    shown = path if path.isprintable() else ascii(path)
    return InputError(f"{shown} {why}; rename it, or use {instead}.")


def _fault(text: str) -> str:
    """What in a path the engines' clients change as they read it; nothing in almost all."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"  # their requests are JSON
    if text[-1].isspace():
        return "ends in white space"  # docker's newer clients refuse it
    return "has a carriage return before a line feed" if "\r\n" in text else ""  # which CSV drops
