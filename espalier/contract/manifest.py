"""`manifest.json`: what an artifact is, what made it and out of what (DESIGN.md, the contract)."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from espalier.contract.files import file_sha256, sync_tree, write_text
from espalier.contract.json_text import read_json, require_finite, to_json
from espalier.contract.ledger import Entry
from espalier.contract.parameters import assigned_as
from espalier.contract.pruned import MaybePruned, Pruned
from espalier.errors import InputError

CONTRACT = 1
MANIFEST = "manifest.json"
METRICS = "metrics.jsonl"
LOGITS = "logits.safetensors"
"""In a stage's scratch folder: what `espalier.models.logits` compares with the stock model's."""
RUN_FOLDER = ".run"
TRACKERS = "trackers"
NOT_CONTENT = {MANIFEST, METRICS, TRACKERS}
"""Files and folders with times in them: in no hash, so that equal runs have equal content."""


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _is_below(path: str) -> str:
    """A manifest from elsewhere names nothing that is not where it may be."""
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or max(len(part.encode()) for part in parts) > 255:
        raise ValueError("must be a path below another")
    return path


Below = Annotated[str, AfterValidator(_is_below)]
"""A relative path of names that file systems take, without `..`."""


class FileRecord(Record):
    path: Below
    size: int
    sha256: str


class InputRecord(Record):
    """A named input. `content` is the digest over its files, the identity that is fingerprinted."""

    name: Below
    content: str
    fingerprint: str | None = None


class ImageRecord(Record):
    """Where the packages came from: an image by digest, or a lock where there is no image."""

    name: str
    lock: str
    reference: str | None = None
    digest: str | None = None


class CodeRecord(Record):
    sha256: str
    revision: str | None = None


class Recipe(Record):
    """What decides a result, and nothing else; its hash is the fingerprint.

    The stage's code and packages are recorded beside it: where they have changed since, a result
    is still what was asked for.
    """

    contract: int = CONTRACT
    stage: str
    parameters: dict[str, Any]
    inputs: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _code_and_lock_were_part_of_it(cls, values: Any) -> Any:
        """Of what the first versions wrote, what is left of it."""
        if isinstance(values, dict):
            return {key: value for key, value in values.items() if key not in ("code", "lock")}
        return values

    @property
    def fingerprint(self) -> str:
        text = to_json(self.model_dump(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, other: "Recipe") -> list[str]:
        """One phrase for each thing in which `other` differs."""
        mine, theirs = self.model_dump(), other.model_dump()
        found = []
        for key in mine:
            if key in ("parameters", "inputs"):
                names = sorted({*mine[key], *theirs[key]})
                found += [
                    f"{assigned_as(name)} {short(theirs[key].get(name))} there, "
                    f"{short(mine[key].get(name))} here"
                    for name in names
                    if mine[key].get(name) != theirs[key].get(name)
                ]
            elif mine[key] != theirs[key]:
                found.append(f"{key} {short(theirs[key])} there, {short(mine[key])} here")
        return found


class RunSpec(Record):
    """What the host hands to the stage, as `.run/run.json` in the directory to be published."""

    stage: str
    name: str
    parameters: dict[str, Any]
    inputs: dict[str, str]
    input_records: dict[str, InputRecord]
    recipe: Recipe
    image: ImageRecord
    code: CodeRecord
    command: list[str]
    runtime: str
    device: str


class Manifest(Record):
    contract: int = CONTRACT
    stage: str
    verb: str
    name: str
    parameters: dict[str, Any]
    seed: int | None
    inputs: dict[str, InputRecord]
    parents: list[str]
    image: ImageRecord
    code: CodeRecord
    command: list[str]
    fingerprint: str
    recipe: Recipe
    content: str
    files: list[FileRecord]
    model: dict[str, Any] | None = None
    pruning: MaybePruned = None
    training: dict[str, Any] | None = None
    ledger: list[Entry] = Field(default_factory=list)
    data: dict[str, Any] | None = None
    checks: dict[str, Any] = Field(default_factory=dict)
    notes: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    timing: dict[str, Any] = Field(default_factory=dict)
    peak_memory_bytes: int | None = None


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a published directory.

    Raises:
        InputError: there is none, or it is not of this contract.
    """
    path = directory / MANIFEST
    try:
        return Manifest.model_validate(read_json(path, "make it again with FORCE=1"))
    except FileNotFoundError:
        raise InputError(f"{directory} has no {MANIFEST}; adopt it with make adopt.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise InputError(f"{path} is not a manifest of contract {CONTRACT} ({where}).") from None


def pruning_of(checkpoint: Path) -> Pruned | None:
    """What its manifest says was pruned of it; None where nothing does."""
    return read_manifest(checkpoint).pruning if (checkpoint / MANIFEST).is_file() else None


def recorded_checks(directory: Path) -> dict[str, Any]:
    """The checks that its manifest records, where its files still are what that says."""
    if not (directory / MANIFEST).is_file():
        return {}
    manifest = read_manifest(directory)
    if not has_all_files(directory, manifest):
        return {}
    config = directory / "config.json"
    same = all(f.path != config.name or file_sha256(config) == f.sha256 for f in manifest.files)
    return manifest.checks if same else {}


def has_all_files(directory: Path, manifest: Manifest) -> bool:
    """Whether a directory has the files that a manifest names, in their sizes, and no others."""
    return next(changes(directory, manifest), None) is None


def published_name(directory: Path, otherwise: str) -> str:
    """What the store calls an artifact, which a stage may see by another path."""
    return read_manifest(directory).name if (directory / MANIFEST).is_file() else otherwise


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest atomically, once all else in the directory is on the disk.

    Whoever finds it finds all of the result, whenever a process or a machine may end.

    Raises:
        InputError: a number in it is NaN or infinite.
        EnvironmentFailure: the disk is full or cannot be written.
    """
    require_finite(manifest.model_dump())  # pydantic would write null without a word
    sync_tree(directory)
    write_text(directory / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


def content_files(directory: Path) -> Iterator[Path]:
    """The files that are the artifact's content, sorted by relative path."""
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if path.is_file() and relative.parts[0] not in {RUN_FOLDER, *NOT_CONTENT}:
            yield path


def record_files(directory: Path) -> list[FileRecord]:
    """Size and sha256 of each content file."""
    return [
        FileRecord(
            path=path.relative_to(directory).as_posix(),
            size=path.stat().st_size,
            sha256=file_sha256(path),
        )
        for path in content_files(directory)
    ]


def changes(directory: Path, manifest: Manifest) -> Iterator[str]:
    """What of a published directory's files is not as its manifest has it, by names and sizes.

    Each as a phrase; hidden files that nothing has published are passed over, as NFS leaves some.
    """
    sizes = {file.path: file.size for file in manifest.files}
    found = {
        path.relative_to(directory).as_posix(): path.stat().st_size
        for path in content_files(directory)
    }
    yield from (f"{directory / name} is missing" for name in sizes if name not in found)
    for name, size in found.items():
        if name not in sizes:
            if not name.rpartition("/")[2].startswith("."):
                yield f"{directory / name} was not published with it"
        elif size != sizes[name]:
            yield f"{directory / name} is not what was published"


def check_files(directory: Path, part: int = 0, of: int = 1) -> int:
    """Hash the files of a published directory, or every `of`-th from `part`; how many there are.

    Raises:
        InputError: there is no manifest, a file is not what it says, or is more than it says; the
            first is named.
    """
    manifest = read_manifest(directory)
    if (wrong := next(changes(directory, manifest), None)) is not None:
        raise InputError(f"{wrong}; make it again with FORCE=1.")
    files = manifest.files[part::of]
    for file in files:
        path = directory / file.path
        if file_sha256(path) != file.sha256:
            raise InputError(f"{path} is not what was published; make it again with FORCE=1.")
    return len(files)


def content_digest(files: list[FileRecord]) -> str:
    """One sha256 over the paths, sizes and hashes of an artifact's files."""
    lines = "".join(f"{file.path}\0{file.size}\0{file.sha256}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def short(value: Any) -> str:
    """A value in a message: a hash by its beginning."""
    text = "unset" if value is None else str(value)
    return text[:12] if len(text) == 64 else text
