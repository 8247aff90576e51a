"""An image: a folder under images/ with what must import in it and hash-locked lists of packages.

Images that differ in their lists alone share images/Dockerfile; one that truly differs has a
Dockerfile of its own. Nothing else names an image: its folder is all there is to add.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from espalier.contract.image import (
    IMPORTS,
    SHARED,
    built_lock,
    digest,
    hash_locks,
    in_an_image,
    locked_names,
)
from espalier.contract.paths import PACKAGES, ROOT
from espalier.errors import InputError

IMAGES = ROOT / "images"
CODE = (*PACKAGES, "models.toml")  # what a Dockerfile copies in
INSTALLER = "installer.lock"
"""Of the shared image: what installs the rest, and what source packages are built with."""


@dataclass(frozen=True)
class Image:
    """One folder under images/.

    Its Dockerfile names the image that it is built on, or a base. Python and what computes are
    those of the image at the bottom, which has a lock for each accelerator.
    """

    name: str
    folder: Path

    @property
    def dockerfile(self) -> Path:
        """The folder's own, or the one that images share."""
        own = self.folder / "Dockerfile"
        return own if own.is_file() else self.folder.parent / "Dockerfile"

    @property
    def arguments(self) -> dict[str, str]:
        """What fills in the shared Dockerfile; a Dockerfile of the image's own says all itself."""
        if self.dockerfile.parent == self.folder:
            return {}
        return {
            **{"IMAGE": self.name, "DESCRIPTION": self.description},
            **{"APT": " ".join(self.apt), "OVERRIDDEN": " ".join(self.overridden)},
        }

    @property
    def description(self) -> str:
        """The first line of its list of packages, which says what the image is for."""
        first = (self.folder / "requirements.in").read_text().partition("\n")[0]
        return first.removeprefix("#").strip().removesuffix(".")

    @property
    def apt(self) -> list[str]:
        """Debian's packages that the image has beside Python's: the words of `apt.txt`."""
        listing = self.folder / "apt.txt"
        lines = listing.read_text().splitlines() if listing.is_file() else []
        return [word for line in lines for word in line.partition("#")[0].split()]

    @property
    def overrides(self) -> Path:
        """Pins that hold against what some package says that it needs, if there is the file."""
        return self.folder / "overrides.txt"

    @property
    def overridden(self) -> list[str]:
        """The names of the packages that these pin."""
        return sorted(locked_names(self.overrides)) if self.overrides.is_file() else []

    def packages(self, accel: str) -> frozenset[str]:
        """The names of the Python packages that it holds."""
        return frozenset(name for lock in self.lock_files(accel) for name in locked_names(lock))

    @property
    def parent(self) -> "Image | None":
        found = re.search(
            r"^ARG PARENT=espalier/([\w-]+):", self.dockerfile.read_text(), re.MULTILINE
        )
        return Image(found[1], self.folder.parent / found[1]) if found else None

    @property
    def bottom(self) -> "Image":
        """The image below this one that is built on a base, or this one."""
        return self.parent.bottom if self.parent else self

    @property
    def python(self) -> str:
        """The version of Python, as `.python-version` says it to uv and pyenv too."""
        return (self.bottom.folder / ".python-version").read_text().strip()

    @property
    def accelerators(self) -> tuple[str, ...]:
        """What ACCEL may be."""
        locks = self.bottom.folder.glob("requirements-*.lock")
        return tuple(sorted(lock.stem.removeprefix("requirements-") for lock in locks))

    def require(self, accel: str) -> None:
        """Refuse an accelerator that this image has no variant for.

        Raises:
            InputError: it has none.
        """
        if accel not in self.accelerators:
            known = " or ".join(self.accelerators)
            raise InputError(f"ACCEL={accel} has no image {self.name}: give {known}.")

    def reference(self, accel: str) -> str:
        return f"espalier/{self.name}:{accel}"

    def lock_files(self, accel: str) -> list[Path]:
        """The locks of everything installed in the image: those of what it is built on first."""
        self.require(accel)
        if not self.parent:
            return [self.folder / f"requirements-{accel}.lock"]
        return [*self.parent.lock_files(accel), self.folder / "requirements.lock"]

    def lock_hash(self, accel: str) -> str:
        """Says which packages the image holds; a comment or a moved file does not change it."""
        return hash_locks(self.lock_files(accel))

    def environment_hash(self, accel: str, base: str) -> str:
        """Says what the image holds but for the project's code."""
        self.require(accel)
        above = self.parent.environment_hash(accel, base) if self.parent else base
        copied = self._copied(accel)
        locks = hash_locks(path for path in copied if path.suffix == ".lock")
        files = [self.dockerfile, *(path for path in copied if path.suffix != ".lock")]
        arguments = [f"{key}={value}" for key, value in self.arguments.items()]
        parts = [part.encode() for part in (above, accel, locks, *arguments)]
        return digest([*parts, *_contents(files, self.folder.parent)])

    def context_hash(self, accel: str, base: str) -> str:
        """Says everything that goes into the image; it changes exactly when a rebuild is due."""
        environment = self.environment_hash(accel, base)
        root, text = self.folder.parent.parent, self.dockerfile.read_text()
        files = [path for name in CODE if f"COPY {name} " in text for path in _files(root / name)]
        if not files:
            return environment
        return digest([environment.encode(), *_contents(files, root)])

    @property
    def installer_lock(self) -> Path:
        """The lock of what installs the rest: uv, and the tools that build source packages."""
        return self.folder.parent / SHARED / INSTALLER

    def _copied(self, accel: str) -> list[Path]:
        """What the Dockerfile takes from under images/, in its order."""
        text = self.dockerfile.read_text()
        text = text.replace("${ACCEL}", accel).replace("${IMAGE}", self.name)
        root = self.folder.parent.parent
        return [root / name for name in re.findall(r"^COPY (images/\S+) ", text, re.MULTILINE)]


def known_images(images: Path = IMAGES) -> list[str]:
    """The names of the images that can be built, the shared one first."""
    names = sorted(path.parent.name for path in images.glob(f"*/{IMPORTS}"))
    return sorted(names, key=lambda name: name != SHARED)


def images_for(accel: str, images: Path = IMAGES) -> list[str]:
    """The names of the images that have a variant for an accelerator."""
    names = known_images(images)
    return [name for name in names if accel in load_image(name, images).accelerators]


def load_image(name: str, images: Path = IMAGES) -> Image:
    if name not in known_images(images):
        known = ", ".join(known_images(images))
        raise InputError(f"There is no image {name}; known images: {known}.")
    return Image(name, images / name)


def packages_lock(name: str, accel: str) -> str:
    """The hash of the locks of an image's packages: of the image around this process, if any.

    Raises:
        EspalierError: there is no such image, or this is another.
    """
    return built_lock(name) if in_an_image() else load_image(name).lock_hash(accel)


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
