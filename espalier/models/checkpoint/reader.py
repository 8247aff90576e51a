"""Reading a checkpoint's tensors one by one, with plain reads: no mapped pages stay resident."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espalier.errors import InputError
from espalier.models.checkpoint.header import TensorEntry
from espalier.models.checkpoint.locate import locate

BLOCK_BYTES = 32 << 20

TORCH_DTYPES: dict[str, Any] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip


class CheckpointReader:
    """The tensors of a Hugging Face directory.

    Attributes:
        directory: where it lies.
        entries: every tensor by name.

    Raises:
        InputError: no safetensors, a shard missing or damaged, an index that disagrees with them.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.entries: dict[str, TensorEntry] = locate(directory)

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def read(self, name: str) -> Tensor:
        """One tensor in its stored dtype, in memory of its own.

        Raises:
            InputError: a value is NaN or infinite.
        """
        tensor = read_entry(self._entry(name))
        check_finite(name, tensor)
        return tensor

    def read_rows(self, name: str, rows: Tensor) -> Tensor:
        """Rows `rows` (int64 [n]) of a matrix: [n, width]. Only their bytes are read."""
        entry = self._entry(name)
        count, width = entry.shape
        if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < count:
            raise InputError(
                f"a token id {int(rows.max())} lies outside the {count} rows of {name}; "
                "use the model's own tokenizer."
            )
        row_bytes = entry.nbytes // count
        tensor = torch.empty((len(rows), width), dtype=TORCH_DTYPES[entry.dtype])
        buffer = _bytes_of(tensor)
        with entry.file.open("rb", buffering=0) as stream:
            for i, row in enumerate(rows.tolist()):
                place = memoryview(buffer)[i * row_bytes : (i + 1) * row_bytes]
                _fill(stream.fileno(), place, entry.offset + row * row_bytes, entry.file)
        check_finite(name, tensor)
        return tensor

    def blocks(self, name: str) -> Iterator[Tensor]:
        """A tensor in blocks of rows of about 32 MiB, for those too large to be held whole."""
        return read_blocks(self._entry(name))

    def _entry(self, name: str) -> TensorEntry:
        if name not in self.entries:
            raise InputError(f"{self.directory} has no tensor {name}; fetch the checkpoint again.")
        return self.entries[name]


def read_entry(entry: TensorEntry, start: int = 0, stop: int | None = None) -> Tensor:
    """The tensor at `entry`, or its rows `start` to `stop`."""
    if start == 0 and stop is None:
        shape, offset = entry.shape, entry.offset
    else:
        stop = entry.shape[0] if stop is None else stop
        shape = (stop - start, *entry.shape[1:])
        offset = entry.offset + start * (entry.nbytes // entry.shape[0])
    tensor = torch.empty(shape, dtype=TORCH_DTYPES[entry.dtype])
    with entry.file.open("rb", buffering=0) as stream:
        _fill(stream.fileno(), memoryview(_bytes_of(tensor)), offset, entry.file)
    return tensor


def read_blocks(entry: TensorEntry) -> Iterator[Tensor]:
    """The tensor at `entry` in checked blocks of rows.

    Raises:
        InputError: a value is NaN or infinite.
    """
    if not entry.nbytes or not entry.shape:
        yield read_entry(entry)
        return
    rows = max(1, BLOCK_BYTES // (entry.nbytes // entry.shape[0]))
    for start in range(0, entry.shape[0], rows):
        block = read_entry(entry, start, min(start + rows, entry.shape[0]))
        check_finite(entry.name, block)
        yield block


def check_finite(name: str, tensor: Tensor) -> None:
    """Refuse NaN and infinities. Extremes propagate both and need no buffer.

    Raises:
        InputError: naming the tensor.
    """
    if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.element_size() == 1:
        return
    low, high = torch.aminmax(tensor)
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise InputError(f"{name} holds NaN or infinite weights; the checkpoint is damaged.")


def _bytes_of(tensor: Tensor) -> Any:
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _fill(descriptor: int, buffer: memoryview, offset: int, file: Path) -> None:
    done = 0
    while done < len(buffer):
        got = os.preadv(descriptor, [buffer[done:]], offset + done)
        if got == 0:
            raise InputError(f"{file} ended while it was read; fetch it again.")
        done += got
