"""What a request would make, and whether what has its name is that: resolved and compared here.

A result is identified by its stage, the parameters that decide it and the content of its inputs.
The stage's code and packages are recorded beside it: where they are others today, the result is
used, and it is said by what it was made and how it is made again.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from espalier.contract.code import code_hash, stage_modules
from espalier.contract.manifest import (
    MANIFEST,
    RUN_FOLDER,
    InputRecord,
    Manifest,
    Recipe,
    RunSpec,
    has_all_files,
    read_manifest,
    short,
)
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Stage
from espalier.errors import EspalierError, InputError
from espalier.host.images.definition import packages_lock

_hash_once = cache(code_hash)
"""Sources do not change while a command runs."""


@dataclass(frozen=True)
class Standing:
    """How a name on the store stands to a request.

    Attributes:
        done: whether its result is there, and is to be used.
        remark: what is worth saying of it: other code, other packages, another device.
    """

    done: bool
    remark: str = ""


@dataclass(frozen=True)
class Identity:
    """A request's recipe, and what would make it here.

    Attributes:
        device: what it would be computed on.
        inputs: the records of its inputs by role.
    """

    stage: Stage
    recipe: Recipe
    inputs: Mapping[str, InputRecord]
    code: str
    lock: str
    device: str

    @classmethod
    def of(
        cls,
        stage: Stage,
        parameters: Parameters,
        inputs: Mapping[str, InputRecord],
        lock: str,
        device: str,
    ) -> "Identity":
        recipe = Recipe(
            stage=stage.name,
            parameters=parameters.identity(),
            inputs={role: record.content for role, record in inputs.items()},
        )
        return cls(stage, recipe, inputs, code_of(stage), lock, device)

    @property
    def work(self) -> str:
        """What unfinished work is known by: no other code or packages go on with it."""
        text = "\0".join((self.recipe.fingerprint, self.code, self.lock))
        return hashlib.sha256(text.encode()).hexdigest()

    def standing(
        self, target: Path, force: bool = False, renew_before: float | None = None
    ) -> Standing:
        """Whether what is published there is what was asked for.

        Args:
            target: the result's directory.
            force: replace what has other parameters, inputs, code or packages.
            renew_before: what was published before this moment (seconds since 1970) is made anew,
                whatever it has.

        Raises:
            InputError: it is something else, and is not to be replaced.
        """
        if not is_there(target, renew_before):
            return Standing(done=False)
        manifest = read_manifest(target)
        replaced = force or self.stage.renewed
        if differences := self.recipe.differences(as_today(manifest.recipe, self.stage)):
            if replaced:
                return Standing(done=False)
            raise InputError(
                f"{target} exists and has other parameters or inputs: {'; '.join(differences)}. "
                "Choose another NAME=, or replace it with FORCE=1."
            )
        if changes := drift(manifest, self.stage):
            if replaced:
                return Standing(done=False)
            return Standing(True, f", made by {' and '.join(changes)}; FORCE=1 makes it again")
        device = manifest.environment.get("device", self.device)
        return Standing(True, "" if device == self.device else f", computed on {device}")

    def is_complete(self, partial: Path) -> bool:
        """Whether unfinished work is finished after all, and only lacks its name."""
        if not (partial / MANIFEST).is_file():
            return False
        try:
            manifest = read_manifest(partial)
        except InputError:
            return False
        same = manifest.recipe == self.recipe and manifest.code.sha256 == self.code
        return same and has_all_files(partial, manifest)

    def abandoned(self, partials: Iterable[Path]) -> list[Path]:
        """Unfinished work on the same that other code or packages have begun."""
        return [path for path in partials if self._is_of_others(path)]

    def _is_of_others(self, partial: Path) -> bool:
        try:
            spec = RunSpec.model_validate_json((partial / RUN_FOLDER / "run.json").read_bytes())
        except (OSError, ValueError):
            return False  # nothing has been begun there
        same = not self.recipe.differences(as_today(spec.recipe, self.stage))
        return same and (spec.code.sha256, spec.image.lock) != (self.code, self.lock)


def is_there(target: Path, since: float | None) -> bool:
    """Whether it is published, and that not before a moment, where one is given."""
    manifest = target / MANIFEST
    return manifest.is_file() and (since is None or manifest.stat().st_mtime >= since)


def code_of(stage: Stage) -> str:
    """The hash of all the code that the stage may load."""
    return _hash_once(*stage_modules(stage))


def as_today(recipe: Recipe, stage: Stage) -> Recipe:
    """A recorded recipe with its parameters as today's stage has them."""
    if recipe.stage != stage.name:
        return recipe
    return recipe.model_copy(update={"parameters": stage.parameters.identity_of(recipe.parameters)})


def drift(manifest: Manifest, stage: Stage) -> list[str]:
    """One phrase for each of code and packages that are others today than a result was made by."""
    found = []
    if manifest.code.sha256 != (code := code_of(stage)):
        found.append(f"other code ({short(manifest.code.sha256)}, now {short(code)})")
    lock = _lock_of(stage, str(manifest.environment.get("device", "cpu")))
    if manifest.image.lock != lock:
        found.append(f"other packages (lock {short(manifest.image.lock)}, now {short(lock)})")
    return found


def made_otherwise(spec: RunSpec, stage: Stage) -> bool:
    """Whether unfinished work was begun by other code or packages than today's."""
    today = (code_of(stage), _lock_of(stage, spec.device))
    return (spec.code.sha256, spec.image.lock) != today


def _lock_of(stage: Stage, device: str) -> str | None:
    """Today's lock of the packages that a result's device takes; None where there is none."""
    try:
        return packages_lock(stage.image, stage.packages_on(device))
    except EspalierError:
        return None
