"""The small files beside the weights: config, tokenizer, licence."""

from pathlib import Path

from espalier.contract.files import write_bytes
from espalier.contract.json_text import from_json, to_json
from espalier.contract.links import copy_below, opened_below
from espalier.models.content import with_dtype
from espalier.models.shapes import read_config

CONFIG = "config.json"
COMPANIONS = (
    "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_LEGAL = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "USE_POLICY*")
LEGAL = tuple(
    "".join(f"[{letter}{letter.lower()}]" if letter.isalpha() else letter for letter in pattern)
    for pattern in _LEGAL
)
"""What a licence asks to go with every copy, by pattern, in any case; no card, which would lie."""


def copy_companions(source: Path, target: Path) -> None:
    """Copy the tokenizer's, the generation's and the licence's files as they are."""
    legal = [path.name for pattern in LEGAL for path in sorted(source.glob(pattern))]
    for name in (*COMPANIONS, *legal):
        if (source / name).is_file():
            copy_below(source, source / name, target / name)


def copy_config(source: Path, target: Path, dtype: str) -> None:
    """Copy config.json, byte for byte unless it states what the result is not computed with.

    That is another dtype than the weights' `dtype`, and what `read_config` corrects.
    """
    with opened_below(source, source / CONFIG) as file:
        content = file.read()
    stated, config = from_json(content), with_dtype(read_config(source), dtype)
    if config != stated:
        content = (to_json(config, indent=2) + "\n").encode()
    write_bytes(target / CONFIG, content)
