"""Writing a checkpoint's files in place, in any order of tensors, across kills. Needs no torch.

Every file is made at its full size before the first tensor is written, so that a full disk is found
before hours of work; it has a temporary name until all its tensors are in it. A journal beside the
files names the tensors that are on the disk: after a kill those are not written again, nor after a
failure between the last of them and the run's end, for which the journal stays in the run's folder.
"""

import errno
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from espalier.contract.manifest import RUN_FOLDER
from espalier.contract.measure import show_size
from espalier.errors import EnvironmentFailure
from espalier.models.checkpoint.header import TensorSpec
from espalier.models.checkpoint.layout import MAX_SHARD_BYTES, Shard, plan_shards, write_index

JOURNAL = "model.safetensors.journal"
PARTIAL = ".partial"
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.partial)?")
NO_RESERVING = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
"""What file systems answer that cannot reserve space: a full disk is found while writing there."""
Blocks = Iterable[Any]
"""A tensor's bytes, in order, as objects with the buffer interface."""


class ShardWriter:
    """A checkpoint's weights on their way to the disk.

    Attributes:
        specs: every tensor that is to be written, by name.
        written: names of those that are on the disk already.

    Args:
        output: an existing directory.
        tensors: everything that will be written, in the order in which files are filled.
        limit: bytes of tensors a file, as in `plan_shards`.
        resume: go on where an earlier writer of the same tensors was killed; else begin anew, and
            leave the files of an earlier checkpoint until each is replaced.

    Raises:
        EnvironmentFailure: the disk has no room for them or cannot be written.
    """

    def __init__(
        self,
        output: Path,
        tensors: Iterable[TensorSpec],
        *,
        limit: int = MAX_SHARD_BYTES,
        resume: bool = False,
    ) -> None:
        self._output = output
        self._shards = plan_shards(tensors, limit)
        self.specs = {spec.name: spec for shard in self._shards for spec in shard.tensors}
        self._shard_of = {spec.name: shard for shard in self._shards for spec in shard.tensors}
        self._journal, self._finished = output / JOURNAL, output / RUN_FOLDER / JOURNAL
        self.written: set[str] = self._on_disk() if resume else set()
        with _said(output):
            self._begin()

    def write_blocks(self, contents: Mapping[str, Blocks]) -> None:
        """Put tensors in their places; once this returns they survive a kill.

        Those that are written already are passed over: a run that resumes makes the same again.

        Raises:
            EnvironmentFailure: the disk is full or cannot be written.
        """
        names = [name for name in contents if name not in self.written]
        touched = {shard.name: shard for shard in map(self._shard_of.__getitem__, names)}
        with _said(self._output):
            for shard in touched.values():
                with _opened(self._partial(shard)) as descriptor:
                    for name in names:
                        if self._shard_of[name] is shard:
                            self._put(descriptor, shard, name, contents[name])
                    os.fdatasync(descriptor)
            self._note(names)
            for shard in touched.values():
                if self._is_written(shard):
                    self._partial(shard).replace(self._output / shard.name)

    def finish(self) -> None:
        """Write the index; remove weights that are no part of this checkpoint, and the journal.

        In a run, the journal is kept with it: its checks may fail, or be killed.

        Raises:
            EnvironmentFailure: the disk is full or cannot be written.
        """
        if missing := self.specs.keys() - self.written:
            raise RuntimeError(f"{sorted(missing)[0]} of {self._output} was never written")
        names = {shard.name for shard in self._shards}
        write_index(self._output, self._shards)
        with _said(self._output):
            for path in self._output.iterdir():
                if WEIGHTS.fullmatch(path.name) and path.name not in names:
                    path.unlink()
            if self._finished.parent.is_dir():
                self._journal.replace(self._finished)
            else:
                self._journal.unlink()

    def _put(self, descriptor: int, shard: Shard, name: str, blocks: Blocks) -> None:
        first = place = shard.offsets[name]
        for block in blocks:
            rest = memoryview(block)
            rest = rest.cast("B") if rest.nbytes else rest
            while rest.nbytes:
                count = os.pwrite(descriptor, rest, place)
                rest, place = rest[count:], place + count
        if place - first != self.specs[name].nbytes:
            raise RuntimeError(
                f"{name} has {place - first} bytes where {self.specs[name].nbytes} were planned"
            )

    def _begin(self) -> None:
        """A journal of what is written, and files at their full size for what is not.

        In this order: no journal may ever name what a new file does not hold.
        """
        lines = "".join(f"{line}\n" for line in (self._layout, *sorted(self.written)))
        temporary = self._journal.with_name(JOURNAL + PARTIAL)
        with _opened(temporary, os.O_CREAT | os.O_TRUNC) as descriptor:
            os.write(descriptor, lines.encode())
            os.fdatasync(descriptor)
        temporary.replace(self._journal)
        self._finished.unlink(missing_ok=True)
        begun: list[Path] = []
        try:
            for shard in self._shards:
                if not self._is_begun(shard):
                    begun.append(self._partial(shard))
                    _allocate(begun[-1], shard)
        except EnvironmentFailure:
            for path in begun:
                path.unlink(missing_ok=True)
            raise

    @property
    def _layout(self) -> str:
        """Tells a journal of these very files from any other."""
        digest = hashlib.sha256()
        for shard in self._shards:
            digest.update(shard.name.encode() + shard.header)
        return digest.hexdigest()

    def _on_disk(self) -> set[str]:
        """The tensors that the journal names, but for those of files that are not as planned."""
        journal = self._journal if self._journal.exists() else self._finished
        try:
            *lines, torn = journal.read_text().split("\n")
        except (OSError, ValueError):
            return set()
        del torn  # a line is whole once it ends
        if not lines or lines[0] != self._layout:
            return set()
        noted = self.specs.keys() & set(lines[1:])
        found: set[str] = set()
        for shard in self._shards:
            names = {spec.name for spec in shard.tensors} & noted
            whole, partial = len(names) == len(shard.tensors), self._partial(shard)
            if names and _is_as_planned(partial, shard):
                found |= names
                if whole:
                    partial.replace(self._output / shard.name)
            elif whole and _is_as_planned(self._output / shard.name, shard):
                found |= names
        return found

    def _note(self, names: Iterable[str]) -> None:
        with _opened(self._journal, os.O_APPEND) as descriptor:
            os.write(descriptor, "".join(f"{name}\n" for name in names).encode())
            os.fdatasync(descriptor)
        self.written.update(names)

    def _is_written(self, shard: Shard) -> bool:
        return all(spec.name in self.written for spec in shard.tensors)

    def _is_begun(self, shard: Shard) -> bool:
        return any(spec.name in self.written for spec in shard.tensors)

    def _partial(self, shard: Shard) -> Path:
        return self._output / (shard.name + PARTIAL)


def _allocate(path: Path, shard: Shard) -> None:
    """A file of the shard's size with its header; where the disk has no room for it, none."""
    path.unlink(missing_ok=True)
    try:
        with _opened(path, os.O_CREAT | os.O_EXCL) as descriptor:
            try:
                os.posix_fallocate(descriptor, 0, shard.nbytes)
            except OSError as error:
                if error.errno not in NO_RESERVING:
                    raise
                os.ftruncate(descriptor, shard.nbytes)
            os.pwrite(descriptor, shard.header, 0)
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno != errno.ENOSPC:
            raise
        raise EnvironmentFailure(
            f"{path.with_suffix('')} cannot be written: No space left on device for its "
            f"{show_size(shard.nbytes)}; free the space or choose another store."
        ) from None


def _is_as_planned(path: Path, shard: Shard) -> bool:
    """Whether a file has the shard's size and header."""
    try:
        with path.open("rb") as stream:
            header = stream.read(len(shard.header))
        return header == shard.header and path.stat().st_size == shard.nbytes
    except OSError:
        return False


@contextmanager
def _opened(path: Path, flags: int = 0) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | flags, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _said(output: Path) -> Iterator[None]:
    """The system's refusal as one sentence."""
    try:
        yield
    except OSError as error:
        raise EnvironmentFailure(
            f"{output} cannot be written: {error.strerror}; free the space or choose another store."
        ) from None
