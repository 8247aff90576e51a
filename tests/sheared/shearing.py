"""Sheared-LLaMA on three small domains: the words of its command, and what it reads."""

from pathlib import Path
from typing import Any

import numpy as np

from espalier.models.tokenizer import tokenizer_hash
from tests.contract.command import espalier
from tests.tiny import SHAPE, tiny_llama
from tests.unit.tiny_domains import write_domains

SEQLEN, BATCH, STEPS = 16, 8, 8
TARGET = ("LAYERS=2", "HIDDEN=24", "HEADS=2", "FFN=32")
TARGET_SHAPE = {
    "num_hidden_layers": 2, "hidden_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 32,
}  # fmt: skip
"""Of TARGET in a config.json."""
RUN = (f"SEQLEN={SEQLEN}", f"BATCH={BATCH}", f"TOKENS={STEPS * BATCH * SEQLEN}", "EVAL_EVERY=2")
LOSSES = "cc=5,code=5,wiki=5"
REFERENCES = f"REFERENCE_LOSSES={LOSSES}"
VALID = 6
"""Held-out rows of each domain."""


def parent(folder: Path, **changes: Any) -> Path:
    """The model that is sheared."""
    return tiny_llama(folder / "tiny", initializer_range=0.2, **changes)


def documents(seed: int, low: int, high: int, rows: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    found: list[list[int]] = generator.integers(low, high, (rows, SEQLEN)).tolist()
    return found


def three_domains(folder: Path, model: Path) -> Path:
    """Token data: all tokens, a few, and a single one."""
    vocabulary = SHAPE["vocab_size"]
    return write_domains(
        folder / "domains",
        {
            name: {
                "train": documents(seed, low, high, rows),
                "valid": documents(9 + seed, low, high, VALID),
            }
            for seed, (name, low, high, rows) in enumerate(
                [("cc", 2, vocabulary, 60), ("code", 2, 20, 40), ("wiki", 5, 6, 20)]
            )
        },
        tokenizer_hash(model) or "",
        vocabulary,
    )


def asked(model: Path, domains: Path, *words: str) -> list[str]:
    """The words of a pruning to TARGET, where they do not say another."""
    given = {
        word.partition("=")[0]: word
        for word in (f"MODEL={model}", f"DOMAIN_DATA={domains}", "SUITE=none", *TARGET, *RUN)
    }
    given |= {word.partition("=")[0]: word for word in words}
    return ["prune-sheared-llama", *(word for word in given.values() if not word.endswith("="))]


def sheared(store: Path, words: list[str]) -> Path:
    done = espalier(store, *words)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return Path(done.stdout.splitlines()[-1])
