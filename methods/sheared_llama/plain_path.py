"""A name for a folder that Composer takes as it is.

It reads a path as a URL and as a pattern, so that what stands behind `#` or `?` would be cut off,
and what stands in braces filled in.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """A path without such signs that leads to the folder, for as long as the block lasts.

    Args:
        folder: which need not be there, where only plain names lie below those that are.
    """
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    with tempfile.TemporaryDirectory(prefix="espalier-") as place:
        link = Path(place) / "there"
        link.symlink_to(there.resolve(), target_is_directory=True)
        yield link / folder.relative_to(there)
