"""Token data on the store: documents as token ids, in shards that are read by memory map.

A directory `data/<name>` holds `tokens.json` and, of each split, shards `train-00000-of-00003`:
`.tokens` are the ids, little-endian, one document after another as [BOS] document [EOS]; `.starts`
are uint64 offsets of the documents' first ids and, last, of the end. No document spans shards.

Data of several domains hold `domains.json` instead, and of each domain a folder that is such a
directory.
"""

from pathlib import Path

from espalier.errors import InputError

INDEX = "tokens.json"
DOMAINS = "domains.json"


def is_token_data(directory: Path) -> bool:
    """Whether a directory holds token ids, of one stream or of several domains."""
    return any((directory / name).is_file() for name in (INDEX, DOMAINS))


def require_one_stream(directory: Path) -> None:
    """Refuse token data of several domains.

    Raises:
        InputError: it is.
    """
    if (directory / DOMAINS).is_file():
        raise InputError(
            f"{directory} is token data of several domains where one stream is needed; give the "
            "path of one domain's folder in it, or make the data without DOMAINS=1."
        )
