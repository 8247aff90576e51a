"""How a checkpoint is divided into files, as transformers divides it. Needs no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.models.checkpoint.header import TensorSpec, make_header
from espalier.models.checkpoint.locate import INDEX, SINGLE

MAX_SHARD_BYTES = 5_000_000_000
"""Of a file's tensors: what transformers writes as `max_shard_size="5GB"`."""


@dataclass(frozen=True)
class Shard:
    """One file that is to be written: everything in it but the tensors' bytes is known.

    Attributes:
        name: of the file.
        tensors: what it holds.
    """

    name: str
    tensors: tuple[TensorSpec, ...]

    @cached_property
    def _header(self) -> tuple[bytes, dict[str, int]]:
        return make_header(self.tensors)

    @property
    def header(self) -> bytes:
        """The file's first bytes."""
        return self._header[0]

    @property
    def offsets(self) -> dict[str, int]:
        """The byte of the file from which each tensor lies, in the order in which they lie."""
        return self._header[1]

    @property
    def nbytes(self) -> int:
        """The file's size."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)


def plan_shards(tensors: Iterable[TensorSpec], limit: int = MAX_SHARD_BYTES) -> list[Shard]:
    """Files of at most `limit` bytes of tensors each, or of one tensor that is larger.

    One file is called `model.safetensors`; several are numbered.
    """
    parts: list[list[TensorSpec]] = []
    filled = limit
    for tensor in tensors:
        if not parts or filled + tensor.nbytes > limit:
            parts.append([])
            filled = 0
        parts[-1].append(tensor)
        filled += tensor.nbytes
    if len(parts) == 1:
        return [Shard(SINGLE, tuple(parts[0]))]
    return [
        Shard(f"model-{number:05}-of-{len(parts):05}.safetensors", tuple(part))
        for number, part in enumerate(parts, start=1)
    ]


def write_index(directory: Path, shards: Sequence[Shard]) -> None:
    """Write `model.safetensors.index.json`, which several files need; one has none."""
    if len(shards) == 1:
        (directory / INDEX).unlink(missing_ok=True)
        return
    weight_map = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
    total = sum(tensor.nbytes for shard in shards for tensor in shard.tensors)
    index = {
        "metadata": {"total_size": total},
        "weight_map": dict(sorted(weight_map.items())),
    }
    write_text(directory / INDEX, to_json(index, indent=2) + "\n")
