"""What FROM= of `make adopt` means: a directory, or one of the hub client's cache.

That cache holds names that link to files elsewhere, which no container can follow. The host follows
them: a folder of hard links on the store, or copies where the store is another disk, is adopted.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from espalier.contract.files import replacing
from espalier.contract.store import Store
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


def leads_out(directory: Path) -> bool:
    """Whether a name in it links to something elsewhere, or to nothing."""
    if directory.is_file():
        return False
    inside = directory.resolve()
    return any(not path.resolve().is_relative_to(inside) for path in directory.rglob("*"))


def followed(directory: Path, store: Store) -> Path:
    """Where `follow` gathers the directory's files."""
    place = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:16]
    return store.root / "cache" / "adopt" / place / directory.resolve().name


def follow(directory: Path, store: Store) -> Path:
    """Gather the files that the directory's links lead to in a folder without links.

    Raises:
        InputError: a link leads to nothing.
        EnvironmentFailure: the store cannot be written.
    """
    files = list(_files(directory))
    target = followed(directory, store)
    shutil.rmtree(target.parent, ignore_errors=True)
    store.create(target)
    for path in files:
        with replacing(target / path.name) as temporary:
            try:
                os.link(path.resolve(), temporary)
            except OSError:  # another disk, or a file of somebody else's
                shutil.copyfile(path, temporary)
    return target


def forget(directory: Path, store: Store) -> None:
    """Remove what `follow` has gathered."""
    shutil.rmtree(followed(directory, store).parent, ignore_errors=True)


def _files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".") or path.suffix in OTHER_FORMATS:
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
