"""The store: one directory of named artifacts, each complete or absent."""

import itertools
import os
import re
import shutil
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from espalier.contract.files import sync_directory
from espalier.contract.manifest import MANIFEST, RUN_FOLDER
from espalier.contract.ownership import make_private
from espalier.errors import EnvironmentFailure, InputError

SECTIONS = (
    *("models", "data", "checkpoints", "maxtext", "composer"),
    *("scores", "evals", "studies", "plans", "reports", "pushes"),
)
NESTED = ("scores", "evals", "pushes")
"""Sections whose names are `<model>/<what was measured>`, or `<model>/<where it is>`."""
PARTIAL = ".partial-"
REPLACED = ".replaced-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def name_after(path: Path) -> str:
    """What a result of a directory or file is called: its name, of letters that a name may have."""
    plain = unicodedata.normalize("NFKD", path.resolve().name)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")
    return name.replace(PARTIAL, "-").replace(REPLACED, "-") or "unnamed"


@dataclass(frozen=True)
class Store:
    """The shared volume. Nothing below `root` is written but by these methods and the stages."""

    root: Path

    def path(self, section: str, name: str) -> Path:
        """Where an artifact is published.

        Raises:
            InputError: the name would leave its section, or is reserved.
        """
        parts = name.split("/")
        allowed = 2 if section in NESTED else 1
        if (
            len(parts) > allowed
            or not all(_NAME.fullmatch(part) for part in parts)
            or PARTIAL in name
            or REPLACED in name
        ):
            raise InputError(
                f"NAME={name} cannot name an artifact; use letters, digits, dots, dashes and "
                "underscores, beginning with a letter or digit."
            )
        return self.root / section / name

    def partial(self, section: str, name: str, fingerprint: str) -> Path:
        """Where the work on an artifact is kept until it is complete; found again by a resume."""
        target = self.path(section, name)
        return target.with_name(f"{target.name}{PARTIAL}{fingerprint[:12]}")

    def partials(self, target: Path) -> list[Path]:
        """Where work on an artifact is kept, of any fingerprint."""
        return sorted(target.parent.glob(f"{target.name}{PARTIAL}*"))

    def create(self, directory: Path) -> None:
        """Make `directory` with its parents, on the disk.

        Raises:
            EnvironmentFailure: the store cannot be written.
        """
        try:
            missing = [path for path in (directory, *directory.parents) if not path.exists()]
            directory.mkdir(parents=True, exist_ok=True)
            for path in missing:
                sync_directory(path.parent)
            if not os.access(directory, os.W_OK):
                raise PermissionError(directory)
        except OSError as error:
            raise EnvironmentFailure(
                f"the store {self.root} cannot be written ({error.strerror or 'no permission'}); "
                "choose another with STORE=."
            ) from None

    def begin(self, partial: Path) -> None:
        """Make the folder of work on an artifact, which only the user who began it may enter.

        Raises:
            EnvironmentFailure: it is another user's, or the store cannot be written.
        """
        self.create(partial.parent)
        try:
            make_private(partial)
        except OSError as error:
            raise EnvironmentFailure(
                f"{partial} cannot be made ({error.strerror}); choose another store with STORE=."
            ) from None

    def _open_up(self, partial: Path) -> None:
        """Let whoever may enter its section enter a complete partial, which is to be published."""
        with suppress(OSError):  # a file system without modes
            partial.chmod(stat.S_IMODE(partial.parent.stat().st_mode))

    def published(self, section: str, name: str) -> Path | None:
        """The artifact's directory where it is complete."""
        path = self.path(section, name)
        return path if (path / MANIFEST).is_file() else None

    def holds(self, path: Path) -> bool:
        """Whether a directory, by whatever path it is given, is where an artifact is published."""
        resolved, root = path.resolve(), self.root.resolve()
        below = resolved.relative_to(root).parts if resolved.is_relative_to(root) else ()
        section, *parts = below or ("",)
        depths = (1, 2) if section in NESTED else (1,)
        return section in SECTIONS and len(parts) in depths and not any(map(_is_leftover, parts))

    def find(self, name: str, sections: tuple[str, ...]) -> Path | None:
        """The first complete artifact called `name` in `sections`."""
        parts = name.split("/")
        for section in sections:
            named = len(parts) <= (2 if section in NESTED else 1) and all(
                map(_NAME.fullmatch, parts)
            )
            if named and (path := self.published(section, name)):
                return path
        return None

    def publish(self, partial: Path, target: Path) -> None:
        """Give a complete partial directory its name, replacing what is there.

        Whoever ends in between leaves the old one aside, and `recover` goes on from there. To be
        called, like that, by whoever holds the target's lock.
        """
        self._open_up(partial)
        if target.exists():
            self._clear(target)
            target.rename(self._free_aside(target, partial.name.rpartition("-")[2]))
        try:
            partial.rename(target)
        except OSError:
            self.recover(target)
            raise
        self._clear(target)

    def recover(self, target: Path) -> None:
        """Finish, or take back, a publish that was cut short.

        What was set aside for another that never came has its name again; beside another that did
        come, nothing is left of it.
        """
        if target.exists():
            if self.was_cut_short(target):
                self._clear(target)
            return
        whole = [path / MANIFEST for path in self._asides(target) if (path / MANIFEST).is_file()]
        if whole:
            max(whole, key=lambda path: path.stat().st_mtime).parent.rename(target)
            sync_directory(target.parent)

    def was_cut_short(self, target: Path) -> bool:
        """Whether the last publish has left something for `recover` to do."""
        return (target / RUN_FOLDER).exists() or bool(self._asides(target))

    def _clear(self, target: Path) -> None:
        """Remove what a published directory no longer needs, once its name is on the disk."""
        sync_directory(target.parent)
        for aside in self._asides(target):
            with suppress(OSError):  # in part removed, it is nobody's result
                (aside / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(target / RUN_FOLDER, ignore_errors=True)

    def _asides(self, target: Path) -> list[Path]:
        return sorted(target.parent.glob(f"{target.name}{REPLACED}*"))

    def _free_aside(self, target: Path, key: str) -> Path:
        """A name for what is replaced, which nothing that could not be removed still has."""
        paths = (target.with_name(f"{target.name}{REPLACED}{key}-{n}") for n in itertools.count(1))
        return next(path for path in paths if not path.exists())

    def artifacts(self) -> Iterator[tuple[str, str, Path]]:
        """Section, name and directory of everything published, by name."""
        for section in SECTIONS:
            base = self.root / section
            names = [name for name in _folders(base) if not _is_leftover(name)]
            if section in NESTED:
                names += [f"{name}/{inner}" for name in names for inner in _folders(base / name)]
            for name in sorted(names):
                if not _is_leftover(name) and os.path.isfile(f"{base}/{name}/{MANIFEST}"):  # noqa: PTH113 - there may be many
                    yield section, name, base / name

    def leftovers(self) -> Iterator[Path]:
        """Every partial or replaced directory where artifacts are, and what runs left in results.

        What is inside a leftover belongs to it.
        """
        for section in SECTIONS:
            for mark in (PARTIAL, REPLACED):
                depth = ("*/", "") if section in NESTED else ("",)
                for path in sorted(
                    p for d in depth for p in (self.root / section).glob(f"{d}*{mark}*")
                ):
                    inside = _is_leftover(path.parent.name)
                    if path.is_dir() and not path.is_symlink() and not inside:
                        yield path
        for _, _, path in self.artifacts():
            if (path / RUN_FOLDER).is_dir():
                yield path / RUN_FOLDER

    def target_of(self, leftover: Path) -> Path:
        """What a leftover was going to be, was, or lies in."""
        if leftover.name == RUN_FOLDER:
            return leftover.parent
        name = leftover.name
        for mark in (PARTIAL, REPLACED):
            name = name.partition(mark)[0]
        return leftover.with_name(name)

    def lock_file(self, target: Path) -> Path:
        """The file that is locked while `target` is being made."""
        name = target.relative_to(self.root).as_posix().replace("/", "__")
        return self.root / ".locks" / f"{name}.lock"


def _folders(directory: Path) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_leftover(name: str) -> bool:
    return PARTIAL in name or REPLACED in name
