"""FLAP and Wanda-sp beside plain loops over the whole model: seconds, memory, units that differ.

`python -m benchmarks units --shape 1b --layers 4`
"""

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from benchmarks.process import GIB, run_worker
from benchmarks.random_checkpoint import SHAPES, checkpoint
from espalier.models.shapes import Shapes, read_config

METHODS = ("flap", "wanda-sp")


def row(method: str, model: Path, tokens: Path, sparsity: float, cache: Path) -> list[str]:
    """Ours and the plain loop on the same model and tokens."""
    costs = {}
    for kind in ("ours", "plain"):
        output = cache / f"units-{os.getpid()}"
        output.mkdir()
        spec = {
            "method": method, "model": str(model), "tokens": str(tokens), "output": str(output),
            "sparsity": sparsity,
        }  # fmt: skip
        costs[kind] = run_worker(kind, spec)
        shutil.rmtree(output)
    ours, plain = costs["ours"], costs["plain"]
    return [
        method,
        *(f"{cost.seconds:.1f} ({cost.processor:.0f} cpu)" for cost in (ours, plain)),
        f"{plain.seconds / ours.seconds:.2f}",
        *(f"{cost.memory / GIB:.2f}" for cost in (ours, plain)),
        _differing(json.loads(ours.printed), json.loads(plain.printed)),
    ]


def _differing(ours: list[Any], plain: list[Any]) -> str:
    """Units that only one of them keeps, of those that the plain loop keeps."""
    pairs = [
        ({*mine}, {*theirs})
        for layer, other in zip(ours, plain, strict=True)
        for mine, theirs in zip(layer, other, strict=True)
    ]
    different = sum(len(mine ^ theirs) for mine, theirs in pairs)
    return f"{different} of {sum(len(theirs) for _, theirs in pairs)}"


def main(words: Sequence[str]) -> None:
    """Parse options, measure, print."""
    parser = argparse.ArgumentParser(prog="benchmarks units", description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tinyllama")
    parser.add_argument("--layers", type=int, default=4, help="0: the shape's own depth")
    parser.add_argument("--sparsity", type=float, default=0.2)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "espalier-bench",
    )
    options = parser.parse_args(words)
    options.cache.mkdir(parents=True, exist_ok=True)
    layers = options.layers or int(SHAPES[options.shape]["num_hidden_layers"])
    model = checkpoint(options.cache, options.shape, layers)
    shape = (options.samples, options.length)
    tokens = options.cache / f"unit-tokens-{options.samples}-{options.length}.safetensors"
    vocabulary = Shapes.of(read_config(model)).vocabulary
    generator = torch.Generator().manual_seed(0)
    save_file({"input_ids": torch.randint(0, vocabulary, shape, generator=generator)}, tokens)
    table = Table(
        *("method", "ours s", "plain s", "plain/ours", "ours GiB", "plain GiB", "units differ"),
        title=f"{model.name}, {options.samples} x {options.length} tokens, {options.sparsity:g}",
    )
    for method in METHODS:
        table.add_row(*row(method, model, tokens, options.sparsity, options.cache))
    Console(width=150).print(table)
