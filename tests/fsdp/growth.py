"""Measures a rank of the real trainer: `python -m tests.fsdp.growth FOLDER RANK WORLD`.

FOLDER holds `parameters.json`, `config.json` and token data; ranks meet by a file in it. Prints the
bytes by which the process grew at its peak while it made the trainer and took two steps.
"""

import json
import re
import sys
from pathlib import Path

import torch
import torch.distributed as dist

import training.plan_gpu.memory  # noqa: F401 - else torch loads as much while it is measured
from espalier.contract.processes import Share
from training.gpu_fsdp.job import FsdpRun
from training.gpu_fsdp.spec import TrainingParameters
from training.gpu_fsdp.trainer import FsdpTrainer
from training.protocol.budget import Budget
from training.protocol.planned_budget import NOWHERE
from training.protocol.progress import RunFolders
from training.protocol.run import as_stored


def memory(field: str) -> int:
    """Bytes of a field of this process's status: VmRSS, or VmHWM, its peak."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found.group(1)) << 10


def job_of(folder: Path) -> FsdpRun:
    """The run that FOLDER describes, with fresh weights; nobody asks for its tokenizer."""
    parameters = TrainingParameters.model_validate_json((folder / "parameters.json").read_text())
    config = as_stored(json.loads((folder / "config.json").read_text()))
    assert parameters.seqlen
    budget = Budget.of(
        tokens=2 * parameters.batch * parameters.seqlen,
        epochs=100,
        batch=parameters.batch,
        seqlen=parameters.seqlen,
        available=10_000,
    )
    return FsdpRun(parameters, folder / "data", config, None, NOWHERE, None, None, budget)


def measure(folder: Path, share: Share) -> int:
    """Growth of this process at its peak, bytes."""
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=share.rank, world_size=share.world)
    torch.randn(256, 256, requires_grad=True).matmul(torch.randn(256, 256)).sum().backward()
    before = memory("VmRSS")
    trainer = FsdpTrainer(
        job_of(folder), RunFolders(folder / "scratch", folder / "out"), "cpu", share
    )
    for step, sequences in enumerate(trainer._batches(0)):
        trainer._step(step, sequences)
    grown = memory("VmHWM") - before
    dist.destroy_process_group()
    return grown


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(measure(Path(sys.argv[1]), Share(int(sys.argv[2]), int(sys.argv[3]))))
