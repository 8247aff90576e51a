"""A reader that counts zeros as it reads, so that nothing has to be read again for it."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from espalier.models.checkpoint.reader import CheckpointReader
from espalier.models.zeros import count_zeros


class Census(CheckpointReader):
    """The tensors of a Hugging Face directory, checked and counted when they are read whole."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._zeros: dict[str, int] = {}

    def read(self, name: str) -> Tensor:
        """As a plain reader."""
        tensor = super().read(name)
        self._zeros[name] = count_zeros(tensor)
        return tensor

    def blocks(self, name: str) -> Iterator[Tensor]:
        """As a plain reader."""
        zeros = 0
        for block in super().blocks(name):
            zeros += count_zeros(block)
            yield block
        self._zeros[name] = zeros

    def zeros(self, name: str) -> int:
        """Zeros of a tensor, of either sign; it is read now where it was not before.

        Raises:
            InputError: a value is NaN or infinite.
        """
        if name not in self._zeros:
            for _ in self.blocks(name):
                pass  # reading is counting
        return self._zeros[name]
