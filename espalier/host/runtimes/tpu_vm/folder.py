"""A folder in a bucket, or a plain one: what the launcher and the workers tell each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from espalier.errors import EnvironmentFailure

CLOUD = ("aiohttp", "gcsfs", "google", "requests")
"""Packages whose failures mean that the bucket, not this program, is at fault."""


class Folder:
    """Objects by name below a URL such as gs://bucket/prefix."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    @cached_property
    def _place(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        # What others have written since the last look must be seen.
        filesystem, path = url_to_fs(self.url, auto_mkdir=True, use_listings_cache=False)
        return filesystem, path

    def below(self, name: str) -> "Folder":
        return Folder(f"{self.url}/{name}")

    def write(self, name: str, text: str) -> None:
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        with self._told():
            filesystem, path = self._place
            filesystem.pipe_file(f"{path}/{name}", content)

    def read(self, name: str) -> str | None:
        """The object's text, or None where there is none."""
        with self._told():
            filesystem, path = self._place
            try:
                return bytes(filesystem.cat_file(f"{path}/{name}")).decode()
            except FileNotFoundError:
                return None

    def texts(self) -> dict[str, str]:
        """Every object directly in the folder, by name."""
        with self._told():
            filesystem, path = self._place
            try:
                found = filesystem.ls(path, detail=True)
            except FileNotFoundError:
                return {}
            names = [each["name"] for each in found if each["type"] == "file"]
            read = filesystem.cat(names, on_error="omit") if names else {}
            return {Path(name).name: bytes(text).decode() for name, text in read.items()}

    def upload(self, source: Path, name: str) -> None:
        """A file, or everything below a directory."""
        with self._told():
            filesystem, path = self._place
            base = source.parent if source.is_file() else source
            files = [source] if source.is_file() else sorted(source.rglob("*"))
            here = [file for file in files if file.is_file()]
            there = [f"{path}/{name}/{file.relative_to(base).as_posix()}" for file in here]
            filesystem.put([str(file) for file in here], there)

    def download(self, target: Path, last: str) -> None:
        """Everything below the folder, into `target`: where the file `last` is, all the rest is."""
        with self._told():
            filesystem, path = self._place
            names = [there.removeprefix(path).lstrip("/") for there in filesystem.find(path)]
            for name in sorted(names, key=lambda name: (name == last, name)):
                here = target / name
                here.parent.mkdir(parents=True, exist_ok=True)
                part = here.with_name(f"{here.name}.part")
                filesystem.get_file(f"{path}/{name}", str(part))
                part.replace(here)

    def remove(self, name: str) -> None:
        """An object, or everything below a name; nothing where there is none."""
        with self._told():
            filesystem, path = self._place
            if filesystem.exists(f"{path}/{name}"):
                filesystem.rm(f"{path}/{name}", recursive=True)

    def clear(self) -> None:
        """The folder itself, with everything below it."""
        parent, _, name = self.url.rpartition("/")
        Folder(parent).remove(name)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            package = type(error).__module__.partition(".")[0]
            if not isinstance(error, OSError) and package not in CLOUD:
                raise
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise EnvironmentFailure(
                f"{self.url} cannot be read or written: {reason[0].rstrip('.')}; does BUCKET= "
                "exist, and may you use it (gcloud auth application-default login)?"
            ) from None
