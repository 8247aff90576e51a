"""The depth search beside a plain loop over the whole model: seconds, memory, and equal scores.

`python -m benchmarks depth --layers 22 --left 21 11`
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

from benchmarks.process import GIB, Cost, run_worker
from benchmarks.random_checkpoint import SHAPES, checkpoint
from espalier.models.shapes import Shapes, read_config
from espalier.pruning.depth.cuts import cuts_of, layer_runs


def row(model: Path, left: int, tokens: Path, label: str) -> list[str]:
    """Ours and the plain loop on the same model, tokens and blocks."""
    spec = {"method": "depth", "model": str(model), "tokens": str(tokens), "left": left}
    ours, plain = run_worker("ours", spec), run_worker("plain", spec)
    layers = Shapes.of(read_config(model)).layers
    shared = layer_runs(layers, cuts_of(layers, [layers - left]))
    looped = layers + (left + 1) * left
    return [
        model.name,
        label,
        str(layers - left),
        *(f"{cost.seconds:.1f} ({cost.processor:.0f} cpu)" for cost in (ours, plain)),
        f"{plain.seconds / ours.seconds:.2f}",
        f"{looped / shared:.2f} ({looped}/{shared})",
        *(f"{cost.memory / GIB:.2f}" for cost in (ours, plain)),
        f"{_difference(ours, plain):.1e}",
    ]


def _difference(ours: Cost, plain: Cost) -> float:
    """The largest relative difference of a score."""
    pairs = zip(json.loads(ours.printed), json.loads(plain.printed), strict=True)
    return max(abs(mine / theirs - 1) for mine, theirs in pairs)


def main(words: Sequence[str]) -> None:
    """Parse options, measure, print."""
    parser = argparse.ArgumentParser(prog="benchmarks depth", description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tinyllama")
    parser.add_argument("--layers", type=int, default=8, help="0: the shape's own depth")
    parser.add_argument("--left", type=int, nargs="+", default=[7, 4], help="layers left")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "espalier-bench",
    )
    options = parser.parse_args(words)
    options.cache.mkdir(parents=True, exist_ok=True)
    layers = options.layers or int(SHAPES[options.shape]["num_hidden_layers"])
    model = checkpoint(options.cache, options.shape, layers)
    tokens = options.cache / f"depth-tokens-{options.samples}-{options.length}.safetensors"
    shape = (options.samples, options.length)
    generator = torch.Generator().manual_seed(0)
    vocabulary = Shapes.of(read_config(model)).vocabulary
    save_file({"input_ids": torch.randint(0, vocabulary, shape, generator=generator)}, tokens)
    table = Table(
        *("model", "tokens", "removed", "ours s", "plain s", "plain/ours", "layers run"),
        *("ours GiB", "plain GiB", "scores differ by"),
    )
    for left in options.left:
        table.add_row(*row(model, left, tokens, f"{options.samples}x{options.length}"))
    Console(width=150).print(table)
