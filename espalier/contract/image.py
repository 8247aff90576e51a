"""Which packages an image holds: its locks, and whether the image around us is the right one."""

import hashlib
import importlib.metadata
from collections.abc import Iterable
from pathlib import Path

from espalier.contract.manifest import ImageRecord
from espalier.contract.paths import ROOT
from espalier.errors import EnvironmentFailure

SHARED = "torch"
"""The image that all with torch are built on; it installs, and checks, for others."""
BUILT_FROM = Path("/opt/image/locks")
"""Where an image keeps the locks that it was built from."""
IMPORTS = "imports.txt"
"""The file of an image's folder that lists the modules it is there for."""


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


def locked_names(lock: Path) -> list[str]:
    """The packages that a lock pins."""
    return [line.split("==")[0] for line in locked_lines(lock) if "==" in line]


def hash_locks(locks: Iterable[Path]) -> str:
    """The sha256 of what locks say, in their order."""
    return digest("\n".join(locked_lines(lock)).encode() for lock in locks)


def in_an_image() -> bool:
    """Whether this process runs inside an image at all."""
    return BUILT_FROM.is_dir()


def around_us(name: str) -> bool:
    """Whether the image around this process is that one."""
    return (BUILT_FROM / f"{name}.lock").is_file()


def built_lock(name: str) -> str:
    """The hash of the locks that the image around this process was built from.

    Raises:
        EnvironmentFailure: this is another image than `name`.
    """
    shared, own = BUILT_FROM / f"{SHARED}.lock", BUILT_FROM / f"{name}.lock"
    if not own.is_file():
        raise EnvironmentFailure(f"this stage runs in image {name}, and this is another image.")
    return hash_locks([shared, own] if shared.is_file() else [own])


def require_built_from(image: ImageRecord) -> None:
    """Refuse an image that is not the one of the recipe: a file made from it may be an old one.

    Raises:
        EnvironmentFailure: its packages are others.
    """
    if in_an_image() and built_lock(image.name) != image.lock:
        where = image.reference or image.name
        raise EnvironmentFailure(f"{where} was built from other locks; make it again.")


def packages_of(image: str) -> dict[str, str]:
    """The versions here of the packages that `image` is there for: its list of modules says which.

    The list lies in the image around this process, or in the project where there is none.
    """
    if in_an_image():
        listings = sorted((BUILT_FROM.parent / "imports").glob("*.txt"))
    else:
        listings = [ROOT / "images" / name / IMPORTS for name in (SHARED, image)]
    modules = [name for listing in listings for name in listing.read_text().split()]
    found = (_distribution(module) for module in modules)
    return dict(package for package in found if package)


def _distribution(module: str) -> tuple[str, str] | None:
    """The installed package that `orbax.checkpoint` or `safetensors.torch` comes from."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        name = "-".join(parts[:end])
        try:
            return name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
