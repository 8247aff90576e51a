"""What of a checkpoint is pushed: what stock loaders read, its licence, its manifest and its card.

Needs no client of the hub: the host says with it what would be pushed.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from espalier.contract.manifest import MANIFEST, FileRecord, read_manifest
from espalier.models.checkpoint.companions import COMPANIONS, LEGAL
from espalier.models.checkpoint.locate import INDEX
from inputs.fetch.files import CONFIGURATION, TOKENIZER, WEIGHTS, is_one_of
from inputs.push.portable import portable

CARD = "README.md"
LOADED = (*WEIGHTS, *CONFIGURATION, *TOKENIZER, *COMPANIONS)
"""What a stock loader looks for in a repository."""
ADAPTER = "adapter_config.json"
"""What makes one load another model than the weights beside it."""
SHARD = "model-*-of-*.safetensors"


@dataclass(frozen=True)
class Part:
    """A file of the commit.

    Attributes:
        name: its path in the repository.
        source: where its bytes are; the bytes themselves where they are made for the push.
    """

    name: str
    source: Path | bytes
    size: int
    sha256: str

    @classmethod
    def made(cls, name: str, content: bytes) -> "Part":
        return cls(name, content, len(content), hashlib.sha256(content).hexdigest())

    @property
    def record(self) -> FileRecord:
        return FileRecord(path=self.name, size=self.size, sha256=self.sha256)

    def content(self) -> bytes:
        """Its bytes, all at once."""
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


@dataclass(frozen=True)
class Cargo:
    """All that one commit holds.

    Attributes:
        parts: its files, the largest first.
        left: files of the checkpoint that stay on the store: pictures, scores.
        taken: what of the manifest is not pushed, by the names of its entries.
    """

    parts: tuple[Part, ...]
    left: tuple[str, ...]
    taken: tuple[str, ...]

    @classmethod
    def of(cls, checkpoint: Path, card: bytes) -> "Cargo":
        """What of a published checkpoint is pushed with its card; nothing is hashed anew.

        Raises:
            InputError: there is no manifest, or it is none.
        """
        files = read_manifest(checkpoint).files
        pushed = [file for file in files if is_one_of(file.path, (*LOADED, *LEGAL))]
        manifest, taken = portable((checkpoint / MANIFEST).read_bytes())
        parts = [
            *(Part(file.path, checkpoint / file.path, file.size, file.sha256) for file in pushed),
            Part.made(MANIFEST, manifest),
            Part.made(CARD, card),
        ]
        left = tuple(file.path for file in files if file not in pushed)
        return cls(tuple(sorted(parts, key=lambda part: (-part.size, part.name))), left, taken)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(part.name for part in self.parts)

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def misread_with(self, there: Iterable[str]) -> list[str]:
        """What a repository has beside these files and a loader would take for a part of them.

        Shards are read where an index names them, and the index is ours if we have one.
        """
        misread = (*LOADED, ADAPTER)
        harmless = (SHARD,) if INDEX in self.names else ()
        return sorted(
            name
            for name in set(there) - self.names
            if is_one_of(name, misread) and not is_one_of(name, harmless)
        )
