"""Files that are there whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Another name beside `target` to write under, which becomes `target` at the end."""
    temporary = target.with_name(f".{target.name}.tmp")
    yield temporary
    temporary.replace(target)
