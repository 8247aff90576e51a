"""Token data of several domains, written as `make data DOMAINS=1` writes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from espalier.data.tokens.domains import DomainIndex
from espalier.data.tokens.index import SPLITS, Split, TokenIndex, token_dtype
from espalier.data.tokens.writer import SplitWriter

Documents = Sequence[Sequence[int]]


def write_domains(
    directory: Path,
    domains: Mapping[str, Mapping[Split, Documents]],
    tokenizer: str = "0",
    vocabulary: int = 65_536,
) -> Path:
    """Documents by domain and split; ids are uint16, and a shard has 20 tokens at most."""
    for name, splits in domains.items():
        write_stream(directory / name, splits, tokenizer, vocabulary)
    DomainIndex.of(directory, list(domains)).write(directory)
    return directory


def write_stream(
    directory: Path, splits: Mapping[Split, Documents], tokenizer: str, vocabulary: int
) -> Path:
    """The documents of one stream, in shards of 20 tokens at most."""
    directory.mkdir(parents=True)
    dtype, written = token_dtype("uint16"), {}
    for split in SPLITS:
        writer = SplitWriter(directory, split, dtype, 20)
        writer.append([np.asarray(document, dtype) for document in splits.get(split, ())])
        written[split] = writer.finish()
        writer.move(written[split], directory)
    index = TokenIndex(
        dtype="uint16",
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        bos=None,
        eos=None,
        splits=written,
    )
    index.write(directory)
    return directory
