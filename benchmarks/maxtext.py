"""MaxText's step beside the FSDP trainer's, on one model, data and machine: seconds, and compiling.

`python -m benchmarks maxtext --layers 6 --hidden 384 --steps 12`
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.training import make_data, make_model
from espalier.contract.paths import ROOT

WARM = 2
"""The first steps of each are not counted."""
RUNS = (
    ("train-gpu", "fsdp"),
    ("train-tpu", "cold"),
    ("train-tpu", "cached"),
    ("train-gpu", "again"),
)
"""The second run by MaxText finds the first one's programs in the store's cache."""


def measured(store: Path, stage: str, name: str, words: list[str]) -> dict[str, float]:
    """Seconds of the first step and of a later one, and the last loss."""
    command = [sys.executable, "-m", "espalier", stage, *words, f"NAME={name}", f"STORE={store}"]
    subprocess.run([*command, "RUNTIME=local"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    metrics = (store / "checkpoints" / name / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, metrics) if "tokens_per_second" in row]
    step = rows[1]["tokens"] - rows[0]["tokens"]
    seconds = [step / row["tokens_per_second"] for row in rows]
    return {"first": seconds[0], "step": median(seconds[WARM:]), "loss": rows[-1]["loss"]}


def main(words: list[str]) -> None:
    """Run both trainers and print the table."""
    parser = argparse.ArgumentParser(prog="make bench BENCH=maxtext")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seqlen", type=int, default=256)
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        parameters = make_model(folder / "model", given.layers, given.hidden)
        tokens = given.steps * given.batch * given.seqlen
        make_data(folder / "tokens", folder / "model", 2 * tokens)
        told = [f"CKPT={folder / 'model'}", f"DATA={folder / 'tokens'}", f"TOKENS={tokens}"]
        told += [f"BATCH={given.batch}", f"SEQLEN={given.seqlen}", "THREADS=2"]
        found = {name: measured(folder / "store", stage, name, told) for stage, name in RUNS}
    best = min(found["fsdp"]["step"], found["again"]["step"])
    title = f"{parameters:,} parameters, {given.batch} x {given.seqlen} tokens a step, float32"
    table = Table("", "first step s", "step s", "ratio to FSDP", "last loss", title=title)
    for name, row in found.items():
        ratio = f"{row['step'] / best:.2f}"
        table.add_row(
            name, f"{row['first']:.1f}", f"{row['step']:.2f}", ratio, f"{row['loss']:.5f}"
        )
    Console().print(table)
