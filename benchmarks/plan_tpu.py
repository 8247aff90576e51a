"""The study's shapes compiled for TPUs: seconds, GiB a chip, and what fits, as `plan-tpu` finds it.

`python -m benchmarks plan-tpu --shapes depth width --tpus v5litepod-256`
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from espalier.contract.json_text import to_json
from espalier.contract.measure import peak_memory

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
SHAPES: dict[str, tuple[dict[str, Any], bool]] = {
    "depth": (LLAMA_8B | {"num_hidden_layers": 16}, False),
    "width": (LLAMA_8B | {"hidden_size": 3072, "intermediate_size": 9216}, False),
    "masked": (LLAMA_8B, True),
}
"""config.json, and whether zeros are kept by a mask, as after 2:4 pruning."""
TPUS = ("v4-256", "v5litepod-256", "v6e-256")
SECONDS = 1800
"""After which a row is given up."""


def plan(shape: str, tpu: str, batch: int) -> dict[str, Any]:
    """The plan of a shape, compiled in this process."""
    from training.plan_tpu.spec import PlanTpuParameters
    from training.plan_tpu.stage import planned, planned_job

    config, masked = SHAPES[shape]
    parameters = PlanTpuParameters(
        tpu=tpu, config=config, masked=masked, batch=batch, seqlen=8192, tokens=52_400_000_000
    )
    job, tokens = planned_job(parameters, None)
    return planned(job, tokens, lambda text: print(text, file=sys.stderr))


def run_apart(shape: str, tpu: str, batch: int) -> dict[str, Any] | None:
    """In a process of its own; None where it failed, and has said why, or took too long."""
    words = ("plan-tpu", "--worker", shape, "--tpus", tpu, "--batch", str(batch))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", *words],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return None
    return None if done.returncode else dict(json.loads(done.stdout.splitlines()[-1]))


def main(words: Sequence[str]) -> None:
    """Parse options, compile, print."""
    parser = argparse.ArgumentParser(prog="benchmarks plan-tpu", description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--tpus", nargs="+", default=list(TPUS))
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--output", type=Path, help="a file that each plan is added to as JSON")
    parser.add_argument("--worker")
    options = parser.parse_args(words)
    if options.worker:
        found = plan(options.worker, options.tpus[0], options.batch)
        print(to_json({**found, "gib": peak_memory() / 2**30}))
        return
    table = Table(
        *("shape", "TPU", "chips", "MICRO_BATCH", "RECOMPUTE", "s", "state GiB", "GiB a chip"),
        *("of", "fits", "host GiB"),
    )
    for shape in options.shapes:
        for tpu in options.tpus:
            found = run_apart(shape, tpu, options.batch)
            if found is None:
                table.add_row(shape, tpu, *[""] * 7, "failed", "")
                continue
            if options.output:
                with options.output.open("a") as file:
                    file.write(to_json({"shape": shape, **found}) + "\n")
            for trial in found["tried"]:
                table.add_row(
                    shape,
                    tpu,
                    str(found["chips"]),
                    str(trial["micro_batch"]),
                    str(int(trial["recompute"])),
                    f"{trial['seconds']:.0f}",
                    f"{trial['state'] / 2**30:.2f}",
                    f"{trial['total'] / 2**30:.2f}",
                    str(found["chip_bytes"] >> 30),
                    "yes" if trial["fits"] else "no",
                    f"{found['gib']:.2f}",
                )
    Console(width=130).print(table)
