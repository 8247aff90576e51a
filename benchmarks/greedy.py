"""SLEB's search beside its plain loop, every candidate run whole: seconds, memory, equal losses.

`python -m benchmarks greedy --layers 8 --gone 3`
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from benchmarks.process import GIB, run_worker
from benchmarks.random_checkpoint import SHAPES, checkpoint
from espalier.models.shapes import Shapes, read_config


def main(words: Sequence[str]) -> None:
    """Parse options, measure, print."""
    parser = argparse.ArgumentParser(prog="benchmarks greedy", description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tinyllama")
    parser.add_argument("--layers", type=int, default=8, help="0: the shape's own depth")
    parser.add_argument("--gone", type=int, default=3, help="layers removed")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
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
    tokens = options.cache / f"greedy-tokens-{options.samples}-{options.length}.safetensors"
    vocabulary = Shapes.of(read_config(model)).vocabulary
    generator = torch.Generator().manual_seed(0)
    save_file({"input_ids": torch.randint(0, vocabulary, shape, generator=generator)}, tokens)
    spec = {"method": "greedy", "model": str(model), "tokens": str(tokens), "gone": options.gone}
    ours, plain = run_worker("ours", spec), run_worker("plain", spec)
    found, looped = json.loads(ours.printed), json.loads(plain.printed)
    table = Table("", "seconds", "peak GiB", "layers run", "order", box=None)
    for name, cost, said in (("shared", ours, found), ("plain loop", plain, looped)):
        seconds = f"{cost.seconds:.1f} ({cost.processor:.0f} cpu)"
        order = " ".join(map(str, said["order"]))
        table.add_row(name, seconds, f"{cost.memory / GIB:.2f}", str(said["runs"]), order)
    pairs = zip(found["losses"], looped["losses"], strict=True)
    apart = max(abs(mine / theirs - 1) for mine, theirs in pairs)
    console = Console(width=150)
    console.print(f"{model.name}, {options.samples} x {options.length} tokens")
    console.print(table)
    console.print(
        f"{plain.seconds / ours.seconds:.2f} times as fast, where the layers run allow "
        f"{looped['runs'] / found['runs']:.2f}; losses differ by {apart:.1e}"
    )
