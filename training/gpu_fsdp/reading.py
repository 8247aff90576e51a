"""Reads torch's distributed checkpoints as data: of their pickles nothing is called but what makes
a description of tensors.
"""

import enum
import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, metadata
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import ReadItem

from espalier.errors import EnvironmentFailure
from training.gpu_fsdp.saved import COMPLETE

DESCRIBING = {
    metadata.__name__: (
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
        "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo", "_StoragePrefix"),
    "torch": ("Size",),
    "torch.serialization": ("_get_layout",),
    "collections": ("OrderedDict",),
    "pathlib": ("PosixPath",),
    "pathlib._local": ("PosixPath",),
}  # fmt: skip
"""All that a description is made of, by module."""


class _Description(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        if (module, name) == ("builtins", "getattr"):  # as some versions of Python store members
            return _member
        if name not in DESCRIBING.get(module, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def _member(kind: Any, name: str) -> enum.Enum:
    """In place of `getattr`: a member of an enumeration, and nothing else that anything has."""
    if isinstance(kind, enum.EnumMeta) and name in kind.__members__:
        member: enum.Enum = kind[name]
        return member
    raise pickle.UnpicklingError(f"it asks for {name} of {kind!r}")


class StateReader(FileSystemReader):  # type: ignore[misc]  # its module has no types
    """The files of one checkpoint.

    Raises:
        EnvironmentFailure: its description is damaged, or asks for more than describing.
    """

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._described = _described(place / COMPLETE)

    def read_metadata(self) -> Metadata:  # type: ignore[override]  # that of one rank alone is none
        """What was read already."""
        return self._described


class PlainPlanner(DefaultLoadPlanner):  # type: ignore[misc]  # likewise
    """What is no tensor is made of numbers, texts and lists alone."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put it in its place: the library, which would call whatever it names, is given a copy.

        Raises:
            EnvironmentFailure: it is made of more.
        """
        copy = io.BytesIO()
        try:
            torch.save(torch.load(value, weights_only=True), copy)
        except pickle.UnpicklingError:
            raise EnvironmentFailure(
                f"a training state holds more than numbers, texts and lists as its "
                f"{read_item.dest_index.fqn} and is not read; remove it, and the same command goes "
                "on from the state before."
            ) from None
        copy.seek(0)
        super().load_bytes(read_item, copy)


def _described(file: Path) -> Metadata:
    try:
        with file.open("rb") as stream:
            found = _Description(stream).load()
        if not isinstance(found, Metadata):
            raise pickle.UnpicklingError("it describes nothing")
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, LookupError, TypeError,
            ValueError) as error:  # fmt: skip
        raise EnvironmentFailure(
            f"{file} is no description of a training state ({error}) and is not read; remove "
            f"{file.parent}, and the same command goes on from the state before."
        ) from None
    return found
