"""A planned peak against the memory that the real trainer takes on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from espalier.contract.paths import ROOT
from espalier.data.tokens.index import SplitIndex, TokenIndex, token_dtype
from espalier.data.tokens.writer import SplitWriter

pytestmark = pytest.mark.fsdp

SHAPE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
"""20 M parameters."""


def described(folder: Path, **parameters: Any) -> Path:
    """A run's folder, as `tests.fsdp.growth` reads it."""
    data = folder / "data"
    for place in (data, folder / "scratch"):
        place.mkdir(parents=True)
    writer = SplitWriter(folder / "scratch", "train", token_dtype("uint16"), 1 << 20)
    ids = np.random.default_rng(0).integers(0, 8192, 10_000)
    writer.append([ids.astype(np.uint16)])
    train = writer.finish()
    writer.move(train, data)
    TokenIndex(
        dtype="uint16", tokenizer="0", vocabulary=8192, bos=None, eos=None,
        splits={"train": train, "valid": SplitIndex.of(())},
    ).write(data)  # fmt: skip
    (folder / "config.json").write_text(json.dumps(SHAPE))
    (folder / "parameters.json").write_text(json.dumps(parameters))
    return folder


def measured(folder: Path, world: int) -> int:
    """The largest growth of a rank, bytes, with memory given back to the system at once."""
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
        "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0",
    }  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.fsdp.growth", str(folder), str(rank), str(world)],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    told = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert not any(rank.returncode for rank in ranks)
    return max(map(int, told))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("world", "given"),
    [
        (1, {"batch": 16, "micro_batch": 8}),
        pytest.param(
            1, {"batch": 8, "micro_batch": 8, "recompute": True}, marks=pytest.mark.exhaustive
        ),
        pytest.param(2, {"batch": 16, "micro_batch": 8}, marks=pytest.mark.exhaustive),
    ],
)
def test_the_plan_is_what_the_trainer_takes(
    tmp_path: Path, world: int, given: dict[str, Any]
) -> None:
    from training.plan_gpu.memory import Rehearsal, pretended_ranks
    from training.plan_gpu.spec import PlanParameters
    from training.plan_gpu.stage import planned_job

    parameters = {**given, "seqlen": 256, "init": "random", "tokens": 2 * given["batch"] * 256}
    job, _ = planned_job(PlanParameters(config=SHAPE, gpus=world, **parameters), None)
    with pretended_ranks(world):
        rehearsal = Rehearsal(job, None, world, job.parameters.recompute)
        planned = rehearsal.peak(job.micro_batch(world))
    found = measured(described(tmp_path, **parameters, epochs=100), world)
    print(f"planned {planned.total >> 20} MiB, measured {found >> 20} MiB, {planned.parts}")
    assert planned.total == pytest.approx(found, rel=0.1)
