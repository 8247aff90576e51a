"""What FROM= of `make adopt` means: a directory, or one of the hub client's cache.

That cache holds names that link to its blobs, which no container can follow. The host follows them,
and no others: a folder of hard links on the store, or copies where the store is another disk, is
adopted.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from espalier.contract.files import replacing
from espalier.contract.links import COPIED_AT_ONCE, leading_out, opened_below
from espalier.contract.manifest import MANIFEST, pruning_of
from espalier.contract.stage import Stage
from espalier.contract.store import Store
from espalier.contract.usable import require_kind
from espalier.errors import InputError
from espalier.host.commands.sources import is_gguf
from espalier.host.draft import CONFIG

OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".ot", ".gguf")
"""How files end that are no part of a model here, and so may be missing."""

ADVICE = "give a Hugging Face directory, or a GGUF file itself"


def directory_named(given: str) -> Path:
    """The directory that FROM=given means; of a repository in the hub's cache, what `main` is.

    Raises:
        InputError: it is none, or it has to be said which of several is meant.
    """
    path = Path(given).expanduser()
    if (path / CONFIG).is_file() or is_gguf(path):
        return path
    if path.is_file():
        raise InputError(f"FROM={given} holds no config.json and is no GGUF file; {ADVICE}.")
    if (path / "snapshots").is_dir():
        return _snapshot(path, given)
    below = sorted(each.name for each in path.glob("models--*") if (each / "snapshots").is_dir())
    if below:
        raise InputError(
            f"FROM={given} is a cache of {len(below)} models; give one of them, such as "
            f"FROM={path / below[0]}."
        )
    if path.name != "snapshots" and not path.is_dir():
        raise InputError(
            f"FROM={given} holds no config.json and is no GGUF file, since it does not exist; "
            f"{ADVICE}."
        )
    raise InputError(f"FROM={given} holds no config.json and is no GGUF file; {ADVICE}.")


def _snapshot(repository: Path, given: str) -> Path:
    """What a repository of the cache holds as `main`, or its only snapshot."""
    try:
        main = repository / "snapshots" / (repository / "refs" / "main").read_text().strip()
    except (OSError, UnicodeDecodeError):
        main = None
    if main is not None and (main / CONFIG).is_file():
        return main
    found = sorted(p for p in (repository / "snapshots").iterdir() if (p / CONFIG).is_file())
    if len(found) == 1:
        _say(f"{repository.name} has no main here; its only snapshot {found[0].name} is adopted.")
        return found[0]
    if found:
        raise InputError(
            f"FROM={given} has {len(found)} snapshots and no main; give one of "
            f"{', '.join(f'FROM={path}' for path in found)}."
        )
    raise InputError(
        f"FROM={given} has no snapshot with a config.json; fetch the model whole, or give a "
        "Hugging Face directory."
    )


def is_to_be_gathered(directory: Path) -> bool:
    """Whether it is not taken as it is: links lead out of it, or somebody's manifest is there."""
    if directory.is_file():
        return False
    return (directory / MANIFEST).is_file() or next(leading_out(directory), None) is not None


def require_adoptable(directory: Path, stage: Stage) -> None:
    """Refuse what its own manifest says the stage cannot read; nothing else of it is believed.

    Raises:
        InputError: it is of a foreign form.
    """
    try:
        pruned = pruning_of(directory)
    except InputError:  # it is no manifest of ours
        return
    require_kind(stage, directory.name, pruned)


def gathered(directory: Path, store: Store) -> Path:
    """Where `gather` puts the directory's files."""
    place = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:16]
    return store.root / "cache" / "adopt" / place / directory.resolve().name


def gather(directory: Path, store: Store) -> Path:
    """Gather a model's files in a folder without links.

    Links are followed within the directory, or within the repository of the hub's cache that it is
    a snapshot of. Its manifest stays behind: the copy is hashed anew, whatever that says.

    Raises:
        InputError: a link leads elsewhere, or to nothing.
        EnvironmentFailure: the store cannot be written.
    """
    files, root = list(_files(directory)), _root(directory)
    target = gathered(directory, store)
    shutil.rmtree(target.parent, ignore_errors=True)
    store.create(target)
    for path in files:
        with _opened(root, directory, path) as source, replacing(target / path.name) as temporary:
            _take(source, temporary)
    if (directory / MANIFEST).is_file():
        _say(
            f"{directory / MANIFEST} is not taken over: files are hashed anew, and what was pruned "
            "is what PATTERN= says."
        )
    return target


def _root(directory: Path) -> Path:
    """What links in it may lead to: itself, or all of the repository whose snapshot it is.

    The hub's client keeps `<repository>/snapshots/<commit>/<name>` as links into
    `<repository>/blobs`.
    """
    place = directory.resolve()
    snapshots, repository = place.parent, place.parent.parent
    is_cache = snapshots.name == "snapshots" and repository.name.startswith("models--")
    return repository if is_cache else place


@contextmanager
def _opened(root: Path, directory: Path, path: Path) -> Iterator[BinaryIO]:
    try:
        with opened_below(root, path) as file:
            yield file
    except InputError:
        if path.resolve().is_relative_to(root):
            raise
        raise InputError(
            f"{path} is a link to {path.readlink()}, out of {directory}, which is not followed; "
            "put the file itself in its place if it is one of the model's."
        ) from None


def _take(source: BinaryIO, target: Path) -> None:
    """Another name of an open file, or a copy of it."""
    target.unlink(missing_ok=True)  # another name, too, would be written through
    own = source.fileno()
    try:
        # Given a folder's descriptor, though the path has no use for it, the link is followed.
        os.link(f"/proc/self/fd/{own}", target, src_dir_fd=own, follow_symlinks=True)
    except OSError:  # another disk, a file of somebody else's, or no Linux
        with target.open("wb") as copy:
            shutil.copyfileobj(source, copy, COPIED_AT_ONCE)


def forget(directory: Path, store: Store) -> None:
    """Remove what `gather` has gathered."""
    shutil.rmtree(gathered(directory, store).parent, ignore_errors=True)


def _files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".") or path.name == MANIFEST or path.suffix in OTHER_FORMATS:
            continue
        if path.is_symlink() and not path.exists():
            raise InputError(
                f"{path} links to {path.readlink()}, which is not there: the model was not "
                "fetched whole; fetch it again."
            )
        if path.is_file():
            yield path


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
