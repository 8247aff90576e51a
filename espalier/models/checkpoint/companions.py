"""The small files beside the weights: config, tokenizer, licence."""

import json
from pathlib import Path

from espalier.contract.files import write_bytes

CONFIG = "config.json"
COMPANIONS = (
    "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja", "chat_template.json", "LICENSE", "LICENSE.txt", "LICENSE.md",
    "NOTICE", "USE_POLICY.md",
)  # fmt: skip


def copy_companions(source: Path, target: Path) -> None:
    """Copy the tokenizer's, the generation's and the licence's files as they are."""
    for name in COMPANIONS:
        if (source / name).is_file():
            write_bytes(target / name, (source / name).read_bytes())


def copy_config(source: Path, target: Path, dtype: str) -> None:
    """Copy config.json, byte for byte unless it names another dtype than the weights' `dtype`."""
    content = (source / CONFIG).read_bytes()
    config = json.loads(content)
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    if any(config.get(key) != dtype for key in keys):
        config.update(dict.fromkeys(keys, dtype))
        content = (json.dumps(config, indent=2) + "\n").encode()
    write_bytes(target / CONFIG, content)
