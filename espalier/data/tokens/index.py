"""`tokens.json`: what token data holds, and which tokenizer made it."""

from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from espalier.contract.files import write_text
from espalier.data.tokens import INDEX, require_one_stream
from espalier.errors import InputError

VERSION = 1
START = np.dtype("<u8")
"""Of an offset in a `.starts` file."""

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


Count = Annotated[int, Field(ge=0, lt=2**56)]
"""The bytes of as many offsets are still counted in int64."""


class IndexRecord(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenShard(IndexRecord):
    """One pair of files, named without suffix; `sha256` is of its `.tokens`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
    tokens: Count
    documents: Count
    sha256: str


class SplitIndex(IndexRecord):
    """The shards of a split, in order."""

    tokens: Count
    documents: Count
    shards: tuple[TokenShard, ...]

    @model_validator(mode="after")
    def _sums_agree(self) -> Self:
        for name in ("tokens", "documents"):
            if getattr(self, name) != sum(getattr(shard, name) for shard in self.shards):
                raise ValueError(f"{name} is not the sum over the shards")
        return self

    @classmethod
    def of(cls, shards: tuple[TokenShard, ...]) -> "SplitIndex":
        """The sums over `shards`."""
        tokens, documents = sum(s.tokens for s in shards), sum(s.documents for s in shards)
        return cls(tokens=tokens, documents=documents, shards=shards)


class TokenIndex(IndexRecord):
    """The whole of `tokens.json`.

    Attributes:
        tokenizer: espalier.models.tokenizer.tokenizer_hash of the model directory.
        vocabulary: ids are below it.
        bos: the id before every document; None: nothing stands there.
        eos: the id after every document, likewise.
    """

    version: Literal[1] = 1
    dtype: Literal["uint16", "uint32"]
    tokenizer: str
    vocabulary: Annotated[int, Field(ge=1, le=2**32)]
    bos: int | None
    eos: int | None
    splits: dict[Split, SplitIndex]

    def write(self, directory: Path) -> None:
        """Write `tokens.json` into `directory`, whole or not at all."""
        write_text(directory / INDEX, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, directory: Path) -> "TokenIndex":
        """Read `tokens.json`.

        Raises:
            InputError: there is none, it is not of this version, or there are several domains.
        """
        path = directory / INDEX
        require_one_stream(directory)
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError:
            raise InputError(f"{directory} is not token data; make it with make data.") from None
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) or "its form"
            raise InputError(
                f"{path} is not of version {VERSION} ({where}); make the data again."
            ) from None


def token_dtype(name: Literal["uint16", "uint32"]) -> "np.dtype[np.uint16 | np.uint32]":
    """Of an id in a `.tokens` file: little-endian on every machine."""
    return np.dtype({"uint16": "<u2", "uint32": "<u4"}[name])


def narrowest(vocabulary: int) -> Literal["uint16", "uint32"]:
    """The dtype that ids below `vocabulary` fit in."""
    return "uint16" if vocabulary <= 1 << 16 else "uint32"
