"""Tiny token data, and training runs on one rank inside the test's process."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from espalier.contract.manifest import METRICS
from espalier.contract.processes import Share
from espalier.data.tokens.index import SPLITS, Split, SplitIndex, TokenIndex
from espalier.data.tokens.writer import SplitWriter
from espalier.models.tokenizer import tokenizer_hash
from tests.tiny import SHAPE
from tests.unit.tiny_checkpoints import load_all
from training.gpu_fsdp.job import FsdpRun
from training.gpu_fsdp.spec import TrainingParameters
from training.gpu_fsdp.worker import work
from training.protocol.progress import RunFolders

VOCABULARY = SHAPE["vocab_size"]
COUNTS: dict[Split, int] = {"train": 300, "valid": 20, "test": 20}
SMALL = {"batch": 4, "seqlen": 16, "lr": 3e-3, "tracker": "none", "valid_tokens": 256}


def documents(count: int, seed: int) -> list[np.ndarray]:
    """Walks over the vocabulary, uint16 [tokens] each, from 0 to 1: there is something to learn."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        steps = random.choice([1, 1, 1, 2, 7], size=random.integers(5, 60))
        ids = (random.integers(2, VOCABULARY) + np.cumsum(steps)) % (VOCABULARY - 2) + 2
        found.append(np.asarray([0, *ids, 1], np.uint16))
    return found


def token_data(directory: Path, model: Path, shard: int = 4000) -> Path:
    """Token data that `model`'s tokenizer counts as its own."""
    directory.mkdir(parents=True)
    splits: dict[Split, SplitIndex] = {}
    for seed, split in enumerate(SPLITS):
        writer = SplitWriter(directory, split, np.dtype("<u2"), shard)
        writer.append(documents(COUNTS[split], seed))
        splits[split] = writer.finish()
        writer.move(splits[split], directory)
    TokenIndex(
        dtype="uint16",
        tokenizer=tokenizer_hash(model) or "",
        vocabulary=VOCABULARY,
        bos=0,
        eos=1,
        splits=splits,
    ).write(directory)
    return directory


@dataclass(frozen=True)
class Run:
    """A finished or interrupted run."""

    output: Path
    found: dict[str, Any]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.output / METRICS).read_text().splitlines()]

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for row in self.rows]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return load_all(self.output)


def job_of(inputs: dict[str, Path], **parameters: Any) -> FsdpRun:
    return FsdpRun.of(TrainingParameters(**{**SMALL, **parameters}), inputs)


def place_of(output: Path) -> RunFolders:
    place = RunFolders(output / ".run" / "scratch", output)
    place.scratch.mkdir(parents=True, exist_ok=True)
    return place


def train(output: Path, inputs: dict[str, Path], **parameters: Any) -> Run:
    """Train on one rank, in this process."""
    job, place = job_of(inputs, **parameters), place_of(output)
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        return Run(output, work(job, place, "cpu", Share(0, 1), output.name))
    finally:
        dist.destroy_process_group()
