"""The header of a safetensors file: which tensor lies where, read and made. Needs no torch.

Format: 8 bytes little-endian header length, that many bytes of JSON, then the tensors' bytes
(https://huggingface.co/docs/safetensors, "Format").
"""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from espalier.contract.json_text import NotJson, from_json, to_json
from espalier.errors import InputError

LENGTH_BYTES = 8
ALIGNMENT = 8
MAX_HEADER_BYTES = 100_000_000
MAX_RANK = 32
MAX_BYTES = 2**62
"""Of one tensor, its empty dimensions aside: torch counts entries and bytes in int64."""
METADATA = "__metadata__"
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that is to be written; `dtype` as safetensors names it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class TensorEntry:
    """One tensor's place: `nbytes` bytes from byte `offset` of `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.dtype, self.shape)


def make_header(
    tensors: Iterable[TensorSpec], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, int]]:
    """A file's first bytes, and the byte of the file from which each tensor lies.

    Tensors of wide dtypes come first, so that each is aligned to its item; else their order stays.
    The dictionary has the order in which they lie.
    """
    ordered = sorted(tensors, key=lambda tensor: -ITEM_BYTES[tensor.dtype])
    content: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    ends = [0]
    for tensor in ordered:
        ends.append(ends[-1] + tensor.nbytes)
        content[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": ends[-2:],
        }
    encoded = to_json(content, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % ALIGNMENT)
    start = LENGTH_BYTES + len(encoded)
    offsets = {t.name: start + first for t, first in zip(ordered, ends[:-1], strict=True)}
    return len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded, offsets


def read_header(file: Path) -> dict[str, TensorEntry]:
    """Read and check the header of a safetensors file.

    The tensors it describes fill the file from its end, one behind the other, as the format has it.

    Raises:
        InputError: the file is absent, truncated or not safetensors, describes what no tensors can
            be, or has a dtype that no weights have.
    """
    try:
        header, start, size = _read(file)
    except FileNotFoundError:
        raise InputError(f"{file} does not exist; fetch the checkpoint again.") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None
    except NotJson as error:
        raise InputError(f"{file} is corrupt: its header {error}; fetch it again.") from None
    try:
        _check_metadata(header)
        entries = {
            name: _entry(name, value, file, start)
            for name, value in header.items()
            if name != METADATA
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(
            f"{file} is corrupt: its header does not describe tensors; fetch it again."
        ) from None
    promised = max((e.offset + e.nbytes for e in entries.values()), default=start)
    if promised != size:
        raise InputError(
            f"{file} is truncated or corrupt: its header promises {promised} bytes and it has "
            f"{size}; fetch it again."
        )
    _check_places(file, entries.values(), start)
    return entries


def read_metadata(file: Path) -> dict[str, str]:
    """The free-form strings of a file whose header `read_header` accepts."""
    return dict(_read(file)[0].get(METADATA, {}))


def _read(file: Path) -> tuple[Any, int, int]:
    """What a file's header says, where the tensors begin, and the file's size in bytes."""
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
            raise InputError(
                f"{file} is truncated or not a safetensors file: its header cannot be read; "
                "fetch it again."
            )
        return from_json(stream.read(length), unique=True), LENGTH_BYTES + length, size


def _check_metadata(header: Mapping[str, Any]) -> None:
    for name, text in header.get(METADATA, {}).items():
        if not isinstance(text, str):
            raise TypeError(METADATA)
        (name + text).encode()  # no half of a surrogate pair


def _check_places(file: Path, entries: Iterable[TensorEntry], start: int) -> None:
    """Refuse tensors that share bytes, and bytes that are no tensor's."""
    end = start
    for entry in sorted(entries, key=attrgetter("offset", "nbytes")):
        if entry.offset != end:
            wrong = "overlaps another tensor" if entry.offset < end else "follows unused bytes"
            raise InputError(f"{file} is corrupt: {entry.name} {wrong}; fetch it again.")
        end += entry.nbytes


def _entry(name: str, value: dict[str, Any], file: Path, start: int) -> TensorEntry:
    dtype, shape, places = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(shape, list) or not isinstance(places, list):
        raise TypeError(name)
    if not name.isprintable() or not dtype.isprintable():
        raise ValueError(name)
    if dtype not in ITEM_BYTES:
        raise InputError(
            f"{file} stores {name} as {dtype}; give float32, bfloat16 or float16 weights."
        )
    first, end = places
    if len(shape) > MAX_RANK or not all(map(_is_extent, (*shape, first, end))):
        raise ValueError(name)
    at_least = math.prod(extent for extent in shape if extent) * ITEM_BYTES[dtype]
    if at_least > MAX_BYTES or end - first != math.prod(shape) * ITEM_BYTES[dtype]:
        raise ValueError(name)
    return TensorEntry(name, dtype, tuple(shape), file, start + first, end - first)


def _is_extent(number: object) -> bool:
    return type(number) is int and 0 <= number <= MAX_BYTES
