"""What runs have left on the store without publishing it, and what is to become of each."""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from espalier.contract.discovery import stages
from espalier.contract.lock import is_held, lock_if_free
from espalier.contract.made import MADE
from espalier.contract.manifest import MANIFEST, RUN_FOLDER, RunSpec, read_manifest
from espalier.contract.measure import show_time
from espalier.contract.store import REPLACED, Store
from espalier.errors import EnvironmentFailure, EspalierError
from espalier.host.identity import as_today, made_otherwise


class Fate(Enum):
    """What tidying does with a leftover; the value is how it is said to have been done."""

    KEEP = "kept"
    REMOVE = "removed"
    RESTORE = "put back"


@dataclass(frozen=True)
class Leftover:
    """A directory that runs have left.

    Attributes:
        target: what it was going to be, was, or lies in.
        why: the reason of its fate.
        size: bytes.
    """

    directory: Path
    target: Path
    fate: Fate
    why: str
    size: int = 0


@dataclass(frozen=True)
class Tidying:
    """Decides over leftovers.

    Attributes:
        min_age: seconds since the last change, below which nothing is removed: a run on another
            machine may have begun it whose lock is not seen here.
        resumable: whether to remove even what its own command would go on with.
    """

    store: Store
    min_age: float
    resumable: bool

    def run(self, dry: bool, tell: Callable[[Leftover, str], None]) -> int:
        """Deal with every leftover, none that a run works on; give the bytes that were freed.

        Raises:
            EnvironmentFailure: one cannot be removed or put back.
        """
        freed = 0
        for directory in list(self.store.leftovers()):
            leftover = self._dealt_with(directory, dry)
            if leftover.fate is Fate.REMOVE:
                freed += leftover.size
            tell(leftover, f"would be {leftover.fate.value}" if dry else leftover.fate.value)
        return freed

    def _dealt_with(self, directory: Path, dry: bool) -> Leftover:
        """Judge under the lock, and act before it is given back."""
        target = self.store.target_of(directory)
        lock_file = self.store.lock_file(target)
        if not dry:
            self.store.create(lock_file.parent)
        with nullcontext(not is_held(lock_file)) if dry else lock_if_free(lock_file) as free:
            if not free:
                return Leftover(directory, target, Fate.KEEP, "is being worked on")
            leftover = replace(self.judge(directory, target), size=size_of(directory))
            if not dry:
                self._carry_out(leftover)
            return leftover

    def _carry_out(self, leftover: Leftover) -> None:
        try:
            if leftover.fate is Fate.REMOVE:
                shutil.rmtree(leftover.directory)
            elif leftover.fate is Fate.RESTORE:
                self.store.recover(leftover.target)
        except OSError as error:
            done = leftover.fate.value
            raise EnvironmentFailure(
                f"{leftover.directory} cannot be {done}: {error.strerror}; make it yours to "
                "change, and give the command again."
            ) from None

    def judge(self, directory: Path, target: Path) -> Leftover:
        """What is to become of a leftover that nobody holds the lock of."""

        def fate(which: Fate, why: str) -> Leftover:
            return Leftover(directory, target, which, why)

        replaced = REPLACED in directory.name
        if replaced and not target.exists() and (directory / MANIFEST).is_file():
            return fate(Fate.RESTORE, "is the only copy of a result that was being replaced")
        if why := self._is_not_ours(directory):
            return fate(Fate.KEEP, why)
        if replaced:
            return fate(Fate.REMOVE, "has been replaced")
        if directory.name == RUN_FOLDER:
            return fate(Fate.REMOVE, "is of a run that has ended")
        if not self.resumable and (why := self._waits(directory, target)):
            return fate(Fate.KEEP, f"{why}; ALL=1 removes it")
        return fate(Fate.REMOVE, "is work that no command goes on with")

    def _is_not_ours(self, directory: Path) -> str:
        """Why nothing is done about it, whatever it holds; nothing where something may be."""
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            return "is another user's"
        if (age := time.time() - last_change(directory)) < self.min_age:
            return f"changed {show_time(max(age, 0))} ago; MIN_AGE=0 removes it"
        return ""

    def _waits(self, partial: Path, target: Path) -> str:
        """What a later command would do with unfinished work; nothing where it would begin anew."""
        try:
            spec = RunSpec.model_validate_json((partial / RUN_FOLDER / "run.json").read_bytes())
            stage = stages()[spec.stage]
        except (OSError, ValueError, KeyError, EspalierError):
            return ""
        if _is_published(spec, partial, target):
            return ""
        if (partial / RUN_FOLDER / MADE).is_file() or (partial / MANIFEST).is_file():
            return "is complete and waits to be published"
        if made_otherwise(spec, stage):
            return ""
        return "can be resumed by the command that began it"


def size_of(directory: Path) -> int:
    """Bytes of the files below a directory."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file())


def last_change(directory: Path) -> float:
    """When anything below a directory was changed last, in seconds since 1970."""
    return max(path.lstat().st_mtime for path in (directory, *directory.rglob("*")))


def _is_published(spec: RunSpec, partial: Path, target: Path) -> bool:
    """Whether what the work was for is there; what was begun after that is to replace it."""
    manifest = target / MANIFEST
    if not manifest.is_file():
        return False
    if (partial / RUN_FOLDER / "run.json").stat().st_mtime > manifest.stat().st_mtime:
        return False
    stage = stages()[spec.stage]
    published = as_today(read_manifest(target).recipe, stage)
    return not as_today(spec.recipe, stage).differences(published)
