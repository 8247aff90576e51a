"""An image: a folder under images/ with a Dockerfile and hash-locked lists of packages."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from espalier.errors import InputError

Accelerator = Literal["cpu", "cuda"]

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "images"
SHARED = "torch"  # the image that every other one is built on
CODE = ("espalier", "methods", "eval", "training", "models.toml")  # what a Dockerfile copies in


def digest(parts: Iterable[bytes]) -> str:
    """The sha256 of the parts and their lengths, so that no two lists hash the same bytes."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()


def locked_lines(lock: Path) -> list[str]:
    """What a lock says, without its comments."""
    lines = (line.split(" #")[0].strip() for line in lock.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def hash_locks(locks: Iterable[Path]) -> str:
    """The sha256 of what locks say, in their order."""
    return digest("\n".join(locked_lines(lock)).encode() for lock in locks)


def require_accelerator(accel: str) -> None:
    if accel not in get_args(Accelerator):
        known = " or ".join(get_args(Accelerator))
        raise InputError(f"ACCEL={accel} has no image: give {known}.")


@dataclass(frozen=True)
class Image:
    """One folder under images/."""

    name: str
    folder: Path

    @property
    def parent(self) -> "Image | None":
        return None if self.name == SHARED else Image(SHARED, self.folder.parent / SHARED)

    def reference(self, accel: str) -> str:
        return f"espalier/{self.name}:{accel}"

    def lock_files(self, accel: str) -> list[Path]:
        """The locks of everything installed in the image: torch's first, then its own."""
        require_accelerator(accel)
        shared = self.folder.parent / SHARED / f"requirements-{accel}.lock"
        return [shared] if self.name == SHARED else [shared, self.folder / "requirements.lock"]

    def lock_hash(self, accel: str) -> str:
        """Says which packages the image holds; a comment or a moved file does not change it."""
        return hash_locks(self.lock_files(accel))

    def environment_hash(self, accel: str, base: str) -> str:
        """Says what the image holds but for the project's code."""
        above = self.parent.environment_hash(accel, base) if self.parent else base
        files = [path for path in _files(self.folder) if path.suffix != ".lock"]
        parts = [above.encode(), accel.encode(), self.lock_hash(accel).encode()]
        if not self.parent:
            parts += ["\n".join(locked_lines(self.installer_lock)).encode()]
        return digest([*parts, *_contents(files, self.folder)])

    def context_hash(self, accel: str, base: str) -> str:
        """Says everything that goes into the image; it changes exactly when a rebuild is due."""
        environment = self.environment_hash(accel, base)
        if not self.parent:
            return environment
        root = self.folder.parent.parent
        files = [path for name in CODE for path in _files(root / name)]
        return digest([environment.encode(), *_contents(files, root)])

    @property
    def installer_lock(self) -> Path:
        """The lock of what installs the rest: uv, and the tools that build source packages."""
        return self.folder.parent / SHARED / "installer.lock"


def known_images(images: Path = IMAGES) -> list[str]:
    """The names of the images that can be built, the shared one first."""
    names = sorted(path.parent.name for path in images.glob("*/Dockerfile"))
    return sorted(names, key=lambda name: name != SHARED)


def load_image(name: str, images: Path = IMAGES) -> Image:
    if name not in known_images(images):
        known = ", ".join(known_images(images))
        raise InputError(f"There is no image {name}; known images: {known}.")
    return Image(name, images / name)


def _files(path: Path) -> Iterator[Path]:
    """The files at or below a path as a build sees them, in a fixed order."""
    if path.is_file():
        yield path
        return
    for below in sorted(path.rglob("*")):
        if below.is_file() and "__pycache__" not in below.parts and below.suffix != ".pyc":
            yield below


def _contents(files: Iterable[Path], root: Path) -> Iterator[bytes]:
    for path in files:
        yield path.relative_to(root).as_posix().encode()
        yield path.read_bytes()
