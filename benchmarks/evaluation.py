"""The same questions by every backend of evaluations, in one run: README's table of eval/.

`python -m benchmarks evaluation --layers 12`

Each side runs in the packages of its image: `requests` has lm-eval's own way and torch's rows,
`jax-rows` one question at a time in JAX and JAX's rows. The limit is the tree's tokens through all
products, at the rate that torch's products have on this machine.
"""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.run import overlay

SIDES = {"requests": "eval", "jax-rows": "maxtext"}
"""The images whose packages they run with."""
SECONDS = ("naive", "naive_warm", "hf", "torch", "jax", "jax_warm", "limit")
RATIOS = {
    "torch / hf": ("hf", "torch"),
    "jax / hf": ("hf", "jax"),
    "jax / naive": ("naive", "jax"),
    "warm": ("naive_warm", "jax_warm"),
    "jax / limit": ("jax_warm", "limit"),
}
"""How many times as fast the one is as the other; the last: how many times the limit it takes."""


def main(words: Sequence[str]) -> None:
    """Measure both sides with the same options, print one table.

    Raises:
        CalledProcessError: a side failed.
    """
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for side, image in SIDES.items():
            file = Path(folder, side)
            command = [overlay(image), "-m", "benchmarks", side, *words, "--json", str(file)]
            subprocess.run(command, check=True)
            for row in json.loads(file.read_text()):
                found.setdefault(row["task"], {}).update(row)
    table = Table("task", "one by one", "tree", "rows", *SECONDS, *RATIOS, box=None)
    for task, row in found.items():
        tokens = (f"{row[count]:,}" for count in ("naive_tokens", "tree_tokens", "row_tokens"))
        seconds = (f"{row[name]:.1f}" for name in SECONDS)
        ratios = (f"{row[one] / row[other]:.2f}" for one, other in RATIOS.values())
        table.add_row(task, *tokens, *seconds, *ratios)
    Console(width=180).print(table)
