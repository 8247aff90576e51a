"""Where objects are kept: Google Cloud Storage by gcsfs, or a plain directory."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

SILENCE = 60
"""Seconds without a byte, after which a transfer has failed."""

LARGEST = 1 << 26
"""Bytes of what is replaced by its version: records."""


class Filesystem(Protocol):
    """Objects by name below one prefix."""

    def write(self, name: str, content: bytes) -> None:
        """Over whatever is there."""

    def replace(self, name: str, content: bytes, version: str) -> bool:
        """Write it over that version, "" for none; False where it is another."""

    def read(self, name: str, most: int) -> tuple[bytes, str] | None:
        """Content and version; None where there is none, or more than `most` bytes."""

    def written(self, name: str) -> datetime | None:
        """When, by the clock of who keeps it."""

    def texts(self, most: int) -> dict[str, bytes]:
        """What lies directly here, without what is larger than `most` bytes."""

    def times(self) -> dict[str, datetime]:
        """When what lies directly here was written."""

    def sizes(self) -> dict[str, int]:
        """Everything below, in bytes."""

    def upload(self, files: Mapping[str, Path]) -> None:
        """Files by the name that each gets."""

    def fetch(self, name: str, target: Path) -> None:
        """One object's content into a file."""

    def remove(self, name: str) -> None:
        """An object, or everything below a name; nothing where there is none."""


def filesystem_at(url: str, seconds: float) -> Filesystem:
    """That of a URL; calls may be silent for `seconds`, at most a minute."""
    if url.startswith("gs://"):
        return Bucket(url, min(seconds, SILENCE))
    return Directory(Path(url.removeprefix("file://")))


class Directory:
    """Objects as the files of a directory: the tests' own bucket, or a shared file system."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, content: bytes) -> None:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part, where = tempfile.mkstemp(prefix=".part-", dir=target.parent)
        with os.fdopen(part, "wb") as file:
            file.write(content)
        Path(where).replace(target)

    def replace(self, name: str, content: bytes, version: str) -> bool:
        with self._alone(name):
            found = self.read(name, LARGEST)
            if (found[1] if found else "") != version:
                return False
            self.write(name, content)
            return True

    def read(self, name: str, most: int) -> tuple[bytes, str] | None:
        try:
            with (self.path / name).open("rb") as file:
                content = file.read(most + 1)
                told = os.fstat(file.fileno())
        except (FileNotFoundError, IsADirectoryError):
            return None
        version = f"{told.st_ino}-{told.st_mtime_ns}-{hashlib.sha256(content).hexdigest()}"
        return (content, version) if len(content) <= most else None

    def written(self, name: str) -> datetime | None:
        try:
            return datetime.fromtimestamp((self.path / name).stat().st_mtime, UTC)
        except FileNotFoundError:
            return None

    def texts(self, most: int) -> dict[str, bytes]:
        found = {file.name: self.read(file.name, most) for file in self._files()}
        return {name: read[0] for name, read in found.items() if read}

    def times(self) -> dict[str, datetime]:
        found = {file.name: self.written(file.name) for file in self._files()}
        return {name: time for name, time in found.items() if time}

    def sizes(self) -> dict[str, int]:
        """Links are named and have no size: nobody follows them."""
        return {
            file.relative_to(self.path).as_posix(): -1 if file.is_symlink() else file.stat().st_size
            for file in self.path.rglob("*")
            if file.is_symlink() or file.is_file()
        }

    def upload(self, files: Mapping[str, Path]) -> None:
        for name, file in files.items():
            self.write(name, file.read_bytes())

    def fetch(self, name: str, target: Path) -> None:
        opened = os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(opened, "rb") as source, target.open("xb") as file:
            while block := source.read(1 << 20):
                file.write(block)

    def remove(self, name: str) -> None:
        import shutil

        path = self.path / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        if not self.path.is_dir():
            return []
        return [file for file in self.path.iterdir() if file.is_file() and not file.is_symlink()]

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        folder = (self.path / name).parent
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX)
            yield
        finally:
            os.close(opened)


class Bucket:
    """Objects of Google Cloud Storage."""

    def __init__(self, url: str, seconds: float) -> None:
        from aiohttp import ClientTimeout
        from fsspec.core import url_to_fs

        # What others have written since the last look must be seen.
        patience = ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
        self.fs, self.path = url_to_fs(url, use_listings_cache=False, requests_timeout=patience)

    def write(self, name: str, content: bytes) -> None:
        self.fs.pipe_file(self._at(name), content)

    def replace(self, name: str, content: bytes, version: str) -> bool:
        """By a precondition on the object's generation, which is 0 where there is none."""
        bucket, key, _ = self.fs.split_path(self._at(name))
        try:
            self.fs.call(
                "POST",
                f"{self.fs._location}/upload/storage/v1/b/{quote(bucket)}/o",
                uploadType="media",
                name=key,
                ifGenerationMatch=version or "0",
                headers={"Content-Type": "application/octet-stream"},
                data=content,
            )
        except FileExistsError:
            # A call that was repeated because its answer was lost has been carried out.
            found = self.read(name, len(content))
            return found is not None and found[0] == content
        return True

    def read(self, name: str, most: int) -> tuple[bytes, str] | None:
        bucket, key, _ = self.fs.split_path(self._at(name))
        try:
            if self.fs.info(self._at(name))["size"] > most:
                return None
            headers, content = self.fs.call("GET", "b/{}/o/{}", bucket, key, alt="media")
        except FileNotFoundError:
            return None
        return bytes(content), str(headers.get("x-goog-generation", ""))

    def written(self, name: str) -> datetime | None:
        try:
            return _time(self.fs.info(self._at(name)))
        except FileNotFoundError:
            return None

    def texts(self, most: int) -> dict[str, bytes]:
        names = [name for name, told in self._here().items() if told["size"] <= most]
        if not names:
            return {}
        found = self.fs.cat([self._at(name) for name in names], on_error="omit")
        return {Path(path).name: bytes(text) for path, text in found.items()}

    def times(self) -> dict[str, datetime]:
        found = {name: _time(told) for name, told in self._here().items()}
        return {name: time for name, time in found.items() if time}

    def sizes(self) -> dict[str, int]:
        found = self.fs.find(self.path, detail=True)
        return {
            path.removeprefix(self.path).removeprefix("/"): told["size"]
            for path, told in found.items()
        }

    def upload(self, files: Mapping[str, Path]) -> None:
        self.fs.put([str(file) for file in files.values()], [self._at(name) for name in files])

    def fetch(self, name: str, target: Path) -> None:
        self.fs.get_file(self._at(name), str(target))

    def remove(self, name: str) -> None:
        if self.fs.exists(self._at(name)):
            self.fs.rm(self._at(name), recursive=True)

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}"

    def _here(self) -> dict[str, Any]:
        """What is known of each object directly in the folder."""
        try:
            found = self.fs.ls(self.path, detail=True)
        except FileNotFoundError:
            return {}
        return {Path(each["name"]).name: each for each in found if each["type"] == "file"}


def _time(told: Any) -> datetime | None:
    time = told.get("mtime")
    return time if isinstance(time, datetime) else None
