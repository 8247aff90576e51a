"""Which file of a sharded checkpoint holds which tensor, and the index that says so."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from espalier.contract.files import write_text
from espalier.models.checkpoint.header import TensorEntry
from espalier.models.checkpoint.locate import INDEX

MAX_FILE_BYTES = 5_000_000_000


@dataclass(frozen=True)
class PlannedFile:
    """One shard to be written: its name and its tensors' names."""

    name: str
    tensors: tuple[str, ...]


def plan_files(
    units: Sequence[Sequence[TensorEntry]], limit: int = MAX_FILE_BYTES
) -> list[list[PlannedFile]]:
    """Give each unit (a decoder layer, or the rest) files of its own of at most `limit` bytes.

    A unit that never shares a file is written, and resumed, without the others.
    """
    parts = [_split(unit, limit) for unit in units]
    total = sum(len(part) for part in parts)
    files: list[list[PlannedFile]] = []
    number = 0
    for part in parts:
        files.append([])
        for names in part:
            number += 1
            files[-1].append(PlannedFile(f"model-{number:05}-of-{total:05}.safetensors", names))
    return files


def write_index(directory: Path, files: Sequence[PlannedFile], nbytes: Mapping[str, int]) -> None:
    """Write `model.safetensors.index.json` for the files planned."""
    weight_map = {name: file.name for file in files for name in file.tensors}
    index = {
        "metadata": {"total_size": sum(nbytes[name] for name in weight_map)},
        "weight_map": dict(sorted(weight_map.items())),
    }
    write_text(directory / INDEX, json.dumps(index, indent=2) + "\n")


def _split(unit: Sequence[TensorEntry], limit: int) -> list[tuple[str, ...]]:
    parts: list[list[str]] = [[]]
    filled = 0
    for entry in unit:
        if parts[-1] and filled + entry.nbytes > limit:
            parts.append([])
            filled = 0
        parts[-1].append(entry.name)
        filled += entry.nbytes
    return [tuple(part) for part in parts if part]
