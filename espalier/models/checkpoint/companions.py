"""The small files beside the weights: config, tokenizer, licence."""

import json
import os
from pathlib import Path

from espalier.errors import EnvironmentFailure

CONFIG = "config.json"
COMPANIONS = (
    "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja", "chat_template.json", "LICENSE", "LICENSE.txt", "LICENSE.md",
    "NOTICE", "USE_POLICY.md",
)  # fmt: skip


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file atomically.

    Raises:
        EnvironmentFailure: the disk is full or cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        raise EnvironmentFailure(f"{path} cannot be written: {error.strerror}.") from None


def write_text(path: Path, content: str) -> None:
    """Write a small UTF-8 file atomically."""
    write_bytes(path, content.encode())


def copy_companions(source: Path, target: Path) -> None:
    """Copy the tokenizer's, the generation's and the licence's files as they are."""
    for name in COMPANIONS:
        if (source / name).is_file():
            write_bytes(target / name, (source / name).read_bytes())


def copy_config(source: Path, target: Path, dtype: str) -> None:
    """Copy config.json, byte for byte unless it names another dtype than the weights' `dtype`."""
    content = (source / CONFIG).read_bytes()
    config = json.loads(content)
    key = "dtype" if "dtype" in config else "torch_dtype"
    if config.get(key) != dtype:
        config[key] = dtype
        content = (json.dumps(config, indent=2) + "\n").encode()
    write_bytes(target / CONFIG, content)
