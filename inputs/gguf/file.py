"""A GGUF file: its values and tensors by name, and what fails while it is read in one sentence."""

from collections import Counter
from collections.abc import Mapping
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
            self._reader = GGUFReader(path)
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
        if int(self.value("split.count", 1)) > 1:
            raise InputError(
                f"{path.name} is one of {self.value('split.count')} parts; merge them first with "
                "llama-gguf-split --merge, and give the one file."
            )
        self.architecture = str(self.value("general.architecture", ""))

    def value(self, key: str, otherwise: Any = None) -> Any:
        """The value of `key`: a number, a string, a truth value or a list of these."""
        field = self._reader.fields.get(key)
        return otherwise if field is None else field.contents()

    def own(self, key: str, otherwise: Any = None) -> Any:
        """The value of `<architecture>.<key>`."""
        return self.value(f"{self.architecture}.{key}", otherwise)

    def needed(self, key: str) -> Any:
        """The same where a model cannot be without it.

        Raises:
            InputError: the file does not say.
        """
        found = self.own(key)
        if found is None:
            raise InputError(
                f"{self.path.name} does not state {self.architecture}.{key}; convert the model to "
                "GGUF again with today's llama.cpp."
            )
        return found

    def number(self, key: str, otherwise: float | None = None) -> float:
        """A float32 in the fewest digits that mean it, as configurations have it: 1e-05."""
        found = self.needed(key) if otherwise is None else self.own(key, otherwise)
        return float(str(np.float32(found)))

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
            InputError: naming the tensor and its type.
        """
        for name, tensor in self.tensors.items():
            try:
                self.rows(name, 0, 1)
            except Exception as error:  # noqa: BLE001 - each type fails in its own way
                raise InputError(
                    f"{name} of {self.path.name} is {tensor.tensor_type.name}, which cannot be "
                    f"dequantized ({error}); give the model as F16, Q8_0 or another type."
                ) from None

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
