"""Prunings to another shape as a user asks for them, and what is looked at in their results."""

import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.contract.command import espalier
from tests.tiny import SHAPE


def pruned(
    store: Path, method: str, model: Path, tokens: Path, *words: str, cold: bool = False
) -> Path:
    given = (f"MODEL={model}", f"CALIBRATION={tokens}", "SUITE=none", *words)
    done = espalier(store, f"prune-{method}", *given, cold=cold)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def check_loads(checkpoint: Path, **sizes: int) -> Any:
    """Stock transformers loads it in the expected shape, gives a finite loss, and generates."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    expected = {k: v for k, v in SHAPE.items() if k.startswith(("num_", "hidden", "inter", "head"))}
    for name, size in (expected | sizes).items():
        assert getattr(model.config, name) == size, name
    ids = torch.arange(2, 30)[None]
    with torch.inference_mode():
        assert math.isfinite(float(model(ids, labels=ids).loss))
        generated = model.generate(ids[:, :4], max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert generated.shape == (1, 10)
    return model


def pictures(directory: Path) -> set[str]:
    found = {path.name for path in directory.iterdir() if path.suffix in (".png", ".svg")}
    for name in found:
        start = (directory / name).read_bytes()[:8]
        assert start.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")
    return found
