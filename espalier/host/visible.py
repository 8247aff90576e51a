"""What another machine has written on a shared file system may be seen here only after a while."""

import os
import time
from pathlib import Path

from espalier.contract.manifest import MANIFEST
from espalier.contract.saved import AGAIN, saved_in, with_place
from espalier.errors import EnvironmentFailure
from espalier.host.file_system import FileSystem

SEEN_SECONDS = 70.0
"""Longer than an NFS client believes what it knows of a directory (acdirmax: 60 s)."""
LOOK_AGAIN_SECONDS = 1.0


def require_manifest(partial: Path) -> None:
    """Wait for the manifest of a stage that has ended well, where it may be on its way.

    Raises:
        EnvironmentFailure: it is not seen; all that there is stays.
    """
    shared = FileSystem.of(partial).shared
    deadline = time.monotonic() + (SEEN_SECONDS if shared else 0)
    while not _listed(partial):
        if time.monotonic() >= deadline:
            sentence = (
                f"the stage has ended well, but no {MANIFEST} is seen in {partial}, where all that "
                "it made is kept; see that the store shows every machine the same files, and "
                f"{AGAIN}."
            )
            raise EnvironmentFailure(with_place(sentence, saved_in(partial)))
        time.sleep(LOOK_AGAIN_SECONDS)


def _listed(partial: Path) -> bool:
    """Whether it is there, by a listing made anew: that a name was not there is remembered."""
    try:
        return MANIFEST in os.listdir(partial) and (partial / MANIFEST).is_file()  # noqa: PTH208
    except OSError:  # a handle of before
        return False
