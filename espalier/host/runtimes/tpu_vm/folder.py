"""A folder in a bucket, or a plain one: what the launcher and the workers tell each other."""

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from espalier.errors import EnvironmentFailure, InputError
from espalier.host.runtimes.tpu_vm.filesystem import Filesystem, filesystem_at
from espalier.host.runtimes.tpu_vm.names import Listed, require_name, require_same
from espalier.host.runtimes.tpu_vm.patience import NONE, Patience, TimedOut, within

CLOUD = ("aiohttp", "gcsfs", "google", "requests")
"""Packages whose failures mean that the bucket, not this program, is at fault."""
SLOWEST = 10**6
"""Bytes a second; what is copied more slowly has failed."""
MOST_TEXT = 1 << 20
"""Bytes of a record or a log; what is larger nobody here has written."""
CLOCK = "clock"
"""Written to be told the bucket's own time."""
Answer = TypeVar("Answer")


class Folder:
    """Objects by name below a URL such as gs://bucket/prefix; every call ends in time."""

    def __init__(self, url: str, patience: Patience = NONE) -> None:
        self.url = url.rstrip("/")
        self.patience = patience
        self._place: Filesystem | None = None

    def below(self, name: str) -> "Folder":
        return Folder(f"{self.url}/{name}", self.patience)

    def patient(self, patience: Patience) -> "Folder":
        """The same place, where a call that fails is made again for as long as that says."""
        return Folder(self.url, patience)

    def write(self, name: str, text: str) -> None:
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        self._call(lambda place: place.write(name, content), len(content))

    def create(self, name: str, text: str) -> bool:
        """Write an object that is not there; False, with nothing written, where it is."""
        return self._call(lambda place: place.replace(name, text.encode(), ""))

    def replace(self, name: str, text: str, version: str) -> bool:
        """Write an object over that version of it; False where it is another by now."""
        return self._call(lambda place: place.replace(name, text.encode(), version))

    def read(self, name: str) -> str | None:
        """The object's text, or None where there is none, or far too much for a text."""
        return self.version(name)[0]

    def version(self, name: str) -> tuple[str | None, str]:
        """The object's text as `read` has it, and which version of the object that is."""
        found = self._call(lambda place: place.read(name, MOST_TEXT))
        return (None, "") if found is None else (found[0].decode(errors="replace"), found[1])

    def written(self, name: str) -> datetime | None:
        """When the object was last written, by the bucket's clock; None where there is none."""
        return self._call(lambda place: place.written(name))

    def now(self) -> datetime:
        """The bucket's clock, which all that write there have in common."""
        self.write(CLOCK, "")
        return self.written(CLOCK) or self.now()

    def texts(self) -> dict[str, str]:
        """Every object directly in the folder, by name."""
        found = self._call(lambda place: place.texts(MOST_TEXT))
        return {name: text.decode(errors="replace") for name, text in found.items()}

    def times(self) -> dict[str, datetime]:
        """When each object directly in the folder was last written, by the bucket's clock."""
        return self._call(lambda place: place.times())

    def upload(self, source: Path, name: str) -> None:
        """A file, or everything below a directory."""
        base = source.parent if source.is_file() else source
        files = [source] if source.is_file() else sorted(source.rglob("*"))
        here = {
            f"{name}/{file.relative_to(base).as_posix()}": file for file in files if file.is_file()
        }
        size = sum(file.stat().st_size for file in here.values())
        self._call(lambda place: place.upload(here), size)

    def download(self, target: Path, listed: Mapping[str, Listed], last: str) -> None:
        """What is listed, and nothing else, into `target`: where `last` is, all the rest is.

        Raises:
            InputError: what lies there is not what was listed, or would be written elsewhere.
        """
        there = self._call(lambda place: place.sizes())
        for name in sorted({*there, *listed}):
            require_name(name, self.url)
            size = listed[name].size if name in listed else None
            if there.get(name) != size:
                raise InputError(
                    f"{self.url}/{name} is {_bytes(there.get(name))}, and the worker that made it "
                    f"has recorded {_bytes(size)}; FORCE=1 makes it anew."
                )
        for name in sorted(listed, key=lambda name: (name == last, name)):
            here = target / name
            here.parent.mkdir(parents=True, exist_ok=True)
            if not here.parent.resolve().is_relative_to(target.resolve()):
                raise InputError(f"{here.parent} is a link out of {target}; remove it.")
            part = here.with_name(f"{here.name}.part")
            self._call(partial(_fetch, name=name, target=part), listed[name].size)
            require_same(part, listed[name], f"{self.url}/{name}")
            part.replace(here)

    def remove(self, name: str) -> None:
        """An object, or everything below a name; nothing where there is none."""
        self._call(lambda place: place.remove(name))

    def clear(self) -> None:
        """The folder itself, with everything below it."""
        parent, _, name = self.url.rpartition("/")
        Folder(parent, self.patience).remove(name)

    def _call(self, work: Callable[[Filesystem], Answer], size: int = 0) -> Answer:
        """Do it in the time that so many bytes may take, again while there is patience.

        Raises:
            EnvironmentFailure: it fails.
        """
        began = time.monotonic()
        while True:
            try:
                return self._once(work, self.patience.call + size / SLOWEST)
            except EnvironmentFailure as error:
                if not self.patience.waits(time.monotonic() - began, str(error)):
                    raise

    def _once(self, work: Callable[[Filesystem], Answer], seconds: float) -> Answer:
        try:
            seconds = self.patience.stop.at_most(seconds, reserve=self.patience.call)
            return within(seconds, lambda: work(self._at()))
        except Exception as error:
            package = type(error).__module__.partition(".")[0]
            if not isinstance(error, OSError | TimedOut) and package not in CLOUD:
                raise
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise EnvironmentFailure(
                f"{self.url} cannot be read or written: {reason[0].rstrip('.')}; does BUCKET= "
                "exist, and may you use it (gcloud auth application-default login)?"
            ) from None

    def _at(self) -> Filesystem:
        if self._place is None:
            self._place = filesystem_at(self.url, self.patience.call)
        return self._place


def _fetch(place: Filesystem, name: str, target: Path) -> None:
    """Anew, where an earlier try has left a part of it."""
    target.unlink(missing_ok=True)
    place.fetch(name, target)


def _bytes(size: int | None) -> str:
    if size is None:
        return "not there"
    return "a link" if size < 0 else f"{size} bytes"
