"""A GGUF file: its values and tensors by name, and what fails while it is read in one sentence."""

from collections import Counter
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor, dequantize

from espalier.errors import InputError

STORED = {
    GGMLQuantizationType.F32: "float32",
    GGMLQuantizationType.F16: "float16",
    GGMLQuantizationType.BF16: "bfloat16",
}
"""Types that are stored as they are; every other one is quantized."""
Kind = type | tuple[type, ...]
MOST_PARTS = 1 << 24
"""Numbers, texts and sizes in a header: the largest vocabularies with their merges have a tenth."""
MOST = 2**31
"""Above each size of any model."""


class _BoundedReader(GGUFReader):
    """The library's, which takes what is beyond a file's end for nothing and goes on for ever."""

    taken = 0

    def _get(self, offset: int, dtype: Any, count: int = 1, *given: Any, **named: Any) -> Any:
        found = super()._get(offset, dtype, count, *given, **named)
        self.taken += 1
        if len(found) != count:
            raise ValueError("it ends before what it announces")
        if self.taken > MOST_PARTS:
            raise ValueError("its header has no end")
        return found


class GgufFile:
    """A GGUF file, of whose tensors only those asked for are read.

    Attributes:
        path: where it lies.
        tensors: every tensor by its GGUF name.
        architecture: as the file names it, such as `llama`.

    Raises:
        InputError: it is no whole GGUF file, a part of a split one, or of the other byte order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._reader = _BoundedReader(path)
        except Exception as error:  # noqa: BLE001 - a damaged file fails wherever the reader stands
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{path.name} cannot be read as a GGUF file ({reason}); download it again."
            ) from None
        if self._reader.byte_order == "S":  # the library would read its weights as noise
            raise InputError(
                f"{path.name} is of a machine with the other order of bytes; convert it with "
                "gguf-convert-endian."
            )
        self.tensors: Mapping[str, ReaderTensor] = {t.name: t for t in self._reader.tensors}
        self._check_named()
        if self.value("split.count", 1, kind=int) > 1:
            raise InputError(
                f"{path.name} is one of {self.value('split.count')} parts; merge them first with "
                "llama-gguf-split --merge, and give the one file."
            )
        self.architecture = self.value("general.architecture", "", kind=str)

    def value(self, key: str, otherwise: Any = None, kind: Kind = object) -> Any:
        """The value of `key`, which has to be a `kind`; `otherwise` where there is none.

        Raises:
            InputError: it is something else.
        """
        field = self._reader.fields.get(key)
        if field is None:
            return otherwise
        try:
            found = field.contents()
        except (ValueError, IndexError):  # text that is not UTF-8
            raise self._wrong(key, "no text") from None
        if not isinstance(found, kind):
            raise self._wrong(key, found)
        return found

    def values(self, key: str, kind: Kind) -> list[Any]:
        """The list that is the value of `key`, each of whose items has to be a `kind`.

        Raises:
            InputError: it is something else.
        """
        found: list[Any] = self.value(key, [], list)
        for one in found:
            if not isinstance(one, kind):
                raise self._wrong(key, one)
        return found

    def own(self, key: str, otherwise: Any = None, kind: Kind = object) -> Any:
        """As `value`, of `<architecture>.<key>`."""
        return self.value(f"{self.architecture}.{key}", otherwise, kind)

    def needed(self, key: str, kind: Kind = object) -> Any:
        """The same where a model cannot be without it.

        Raises:
            InputError: the file does not say, or it is something else.
        """
        found = self.own(key, kind=kind)
        if found is None:
            raise InputError(
                f"{self.path.name} does not state {self.architecture}.{key}; convert the model to "
                "GGUF again with today's llama.cpp."
            )
        return found

    def number(self, key: str, otherwise: float | None = None) -> float:
        """`real` in the fewest digits that mean it, as configurations have it: 1e-05."""
        return float(str(np.float32(self.real(key, otherwise))))

    def real(self, key: str, otherwise: float | None = None) -> float:
        """A float32 that is not negative.

        Raises:
            InputError: the file does not say, or it is no such number.
        """
        kind = (int, float)
        found = self.needed(key, kind) if otherwise is None else self.own(key, otherwise, kind)
        if not 0 <= found <= float(np.finfo(np.float32).max):
            raise self._wrong(key, found)
        return float(found)

    def count(self, key: str, otherwise: int | None = None) -> int:
        """A size, which is the same in every layer where it is stated for each.

        Raises:
            InputError: the file does not say, or it is no size.
        """
        kind = (int, list)
        found = self.needed(key, kind) if otherwise is None else self.own(key, otherwise, kind)
        if isinstance(found, list):
            if len(set(found)) != 1:
                raise InputError(
                    f"{self.path.name} has layers of different {key}, which is not supported."
                )
            found = found[0]
        if not isinstance(found, int) or not 0 < found < MOST:
            raise self._wrong(key, found)
        return found

    def _wrong(self, key: str, found: object) -> InputError:
        return InputError(
            f"{self.path.name} states {key} as {ascii(found)[:40]}, which it cannot be; convert "
            "the model to GGUF again with today's llama.cpp."
        )

    def _check_named(self) -> None:
        """Refuse tensors without entries, or with names that are none."""
        for name, tensor in self.tensors.items():
            if not tensor.n_elements or not name.isprintable():
                raise InputError(
                    f"{self.path.name} cannot be read as a GGUF file ({name!a} is empty, or no "
                    "name); download it again."
                )

    def _check_apart(self) -> None:
        """Refuse tensors that share bytes."""
        end = 0
        for tensor in sorted(self.tensors.values(), key=attrgetter("data_offset")):
            if tensor.data_offset < end:
                raise InputError(
                    f"{self.path.name} cannot be read as a GGUF file ({tensor.name} lies where "
                    "another tensor does); download it again."
                )
            end = tensor.data_offset + tensor.n_bytes

    def shape(self, name: str) -> tuple[int, ...]:
        """Sizes of a tensor in the order of torch: [outputs, inputs]."""
        return tuple(int(size) for size in reversed(self.tensors[name].shape))

    def rows(self, name: str, first: int = 0, end: int | None = None) -> np.ndarray[Any, Any]:
        """Rows `first` to `end` of a tensor, dequantized: float32 of its shape."""
        tensor = self.tensors[name]
        data = tensor.data[first:end]
        values = dequantize(np.ascontiguousarray(data), tensor.tensor_type)
        return values.reshape(len(data), *self.shape(name)[1:])

    def check_readable(self) -> None:
        """Refuse, before anything is written, what the gguf library cannot dequantize.

        Raises:
            InputError: naming the tensor and its type; or a tensor lies where another does.
        """
        for name, tensor in self.tensors.items():
            try:
                self.rows(name, 0, 1)
            except Exception as error:  # noqa: BLE001 - each type fails in its own way
                raise InputError(
                    f"{name} of {self.path.name} is {tensor.tensor_type.name}, which cannot be "
                    f"dequantized ({error}); give the model as F16, Q8_0 or another type."
                ) from None
        self._check_apart()

    def types(self) -> dict[str, int]:
        """How many tensors there are of each type, the most frequent first."""
        counted = Counter(tensor.tensor_type.name for tensor in self.tensors.values())
        return dict(counted.most_common())

    @property
    def dtype(self) -> str:
        """In which dtype the weights are kept: their own, or bfloat16 where they are quantized."""
        matrices = [t for t in self.tensors.values() if len(t.shape) > 1]
        found = {STORED.get(tensor.tensor_type, "") for tensor in matrices}
        if len(found) == 1:
            return found.pop() or "bfloat16"
        return "float32" if found <= {"float32", "float16", "bfloat16"} else "bfloat16"
