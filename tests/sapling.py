"""Sapling, grown once for all tests that only want to have it."""

import shutil
from pathlib import Path

from filelock import FileLock

from espalier.contract.code import code_hash, stage_modules
from espalier.contract.discovery import stage_named
from espalier.host.images import load_image
from tests.contract.command import espalier
from tests.kept import kept

PLACES = ("data/pydoc", "models/sapling")


def with_sapling(store: Path) -> Path:
    """The store with sapling and its text on it, as `make grow` leaves them."""
    stages = [stage_named(name) for name in ("corpus", "grow")]
    code = code_hash(*(module for stage in stages for module in stage_modules(stage)))
    folder = kept("sapling", code, load_image(stages[-1].image).lock_hash("cpu"))
    with FileLock(folder / "lock"):
        if not all((folder / place / "manifest.json").is_file() for place in PLACES):
            done = espalier(folder, "grow")
            assert done.returncode == 0, done.stderr
    for place in PLACES:
        shutil.copytree(folder / place, store / place)
    return store
