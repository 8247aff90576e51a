"""A training that fails on its way: nothing saved is lost, and the same command goes on."""

import json
import os
import resource
import signal
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from espalier.contract.manifest import METRICS, TRACKERS
from espalier.contract.processes import Processes
from espalier.errors import EspalierError
from tests.contract.command import command, espalier, quiet_environment, refused
from tests.contract.waiting import ranks_of, wait_until
from tests.fsdp.test_ranks import rows
from tests.fsdp.tiny_runs import Run, job_of, place_of, train
from training.gpu_fsdp import launch
from training.gpu_fsdp.batches import Windows
from training.gpu_fsdp.saved import last_step
from training.gpu_fsdp.trainer import FsdpTrainer

pytestmark = pytest.mark.fsdp

Failure = Callable[[int, FsdpTrainer], None]
STEPS = 8
HOW = {"tokens": STEPS * 64, "save_every": 2, "valid_every": 4}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Path]) -> Run:
    return train(tmp_path_factory.mktemp("whole") / "run", inputs, **HOW)


def failing(output: Path, inputs: dict[str, Path], fails: Failure) -> None:
    """Train by the stage's own launcher, with something that happens in each step."""

    class Failing(FsdpTrainer):
        def _step(self, step: int, batch: Any) -> dict[str, float]:
            fails(step, self)
            return super()._step(step, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.gpu_fsdp.worker.FsdpTrainer", Failing)
        launch.train(job_of(inputs, **HOW), place_of(output), "cpu", "run", Processes())


def bug(step: int, trainer: FsdpTrainer) -> None:
    if step == 5:
        raise RuntimeError("a bug at step 6")


def memory(step: int, trainer: FsdpTrainer) -> None:
    if step == 5:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")


def full_disk(step: int, trainer: FsdpTrainer) -> None:
    """From then on no file may be longer than this: what is saved next fails in its thread."""
    if step == 5:
        trainer._states.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))


@pytest.mark.parametrize(
    ("fails", "says", "code"),
    [
        (bug, "a bug at step 6", None),
        (memory, "memory ran out; lower MICRO_BATCH", 3),
        (full_disk, "the store cannot be written: File too large", 3),
    ],
)
def test_the_same_again_goes_on_and_ends_as_if_nothing_had_been(
    request: pytest.FixtureRequest, tmp_path: Path, fails: Failure, says: str, code: int | None
) -> None:
    inputs, whole = map(request.getfixturevalue, ("inputs", "whole"))
    output = tmp_path / "run"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(EspalierError if code else RuntimeError, match=says) as failed:
            failing(output, inputs, fails)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code is None or failed.value.exit_code == code  # type: ignore[attr-defined]
    assert last_step(output / ".run" / "scratch") == "step 4"
    left = json.loads((output / ".run" / "scratch" / "error-0.json").read_text())
    assert left["code"] == (code or 1)
    again = train(output, inputs, **HOW)
    assert again.losses == whole.losses
    assert again.found["valid"] == whole.found["valid"]
    for name, weight in whole.weights.items():
        assert torch.equal(weight, again.weights[name]), name


WORDS = ("BATCH=4", "SEQLEN=32", "LR=0.003", "TOKENS=5120", "EPOCHS=9", "VALID_EVERY=20")
THREE = ("VALID_TOKENS=96", "MICRO_BATCH=1")


def test_a_rank_that_is_killed(tmp_path: Path, parent: Path, data: Path) -> None:
    """SIGKILL of one of two ranks: 75, a sentence, and the losses of a run at once.

    Each rank takes one sequence at a time, and three windows of validation do not divide.
    """
    words = [f"CKPT={parent}", f"DATA={data}", *WORDS, *THREE, "SAVE_EVERY=5", "NAME=run"]
    process = subprocess.Popen(
        command(tmp_path, "train-gpu", *words, "GPUS=2"),
        env=quiet_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )

    def saved() -> bool:
        assert process.poll() is None, process.stderr and process.stderr.read()
        return any(tmp_path.glob("checkpoints/run.partial-*/.run/scratch/state/*05/.metadata"))

    wait_until(saved, 240)
    os.kill(ranks_of(tmp_path)[-1], signal.SIGKILL)
    _, told = process.communicate(timeout=240)
    done = subprocess.CompletedProcess([], process.returncode, "", told)
    (partial,) = tmp_path.glob("checkpoints/run.partial-*")
    step = last_step(partial / ".run" / "scratch")
    refused(done, 75, "of 2 was killed (SIGKILL)", f"run the same command to resume from {step}.")
    unequal = espalier(tmp_path, "train-gpu", *words, "GPUS=3")
    refused(unequal, 2, "does not divide among 3 processes")
    again = espalier(tmp_path, "train-gpu", *words, "GPUS=2")
    assert again.returncode == 0, again.stderr
    assert f"from {step}" in again.stderr
    alone = espalier(tmp_path / "one", "train-gpu", *words)
    assert alone.returncode == 0, alone.stderr
    two, one = (rows(store / "checkpoints" / "run") for store in (tmp_path, tmp_path / "one"))
    assert [row["step"] for row in two] == [row["step"] for row in one]
    assert [row["loss"] for row in two] == pytest.approx([r["loss"] for r in one], abs=1e-4)
    assert steps_followed(tmp_path / "checkpoints" / "run") == [row["step"] for row in two]
    expected = valid_loss(tmp_path / "checkpoints" / "run", data)
    assert [r[-1]["valid_loss"] for r in (one, two)] == pytest.approx([expected] * 2, abs=1e-4)


def valid_loss(model: Path, data: Path) -> float:
    """Mean cross-entropy of stock transformers over the first three windows."""
    from espalier.data.tokens.reader import TokenData

    whole = Windows(TokenData(data), "valid", 32, False).read(torch.arange(3).numpy())
    stock = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        logits = stock(whole.inputs).logits
    return float(cross_entropy(logits.flatten(0, 1), whole.targets.flatten()))


def steps_followed(output: Path) -> list[int]:
    """The steps whose loss TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(output / TRACKERS / "tensorboard")).Reload()
    return [event.step for event in shown.Scalars("loss")]


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_a_tracker_has_no_step_twice(tmp_path: Path, inputs: dict[str, Path], tracker: str) -> None:
    """Two runs fail between saves, after which the steps since are made again."""
    logged: list[int] = []

    def fails_at(last: int) -> Failure:
        def fails(step: int, trainer: FsdpTrainer) -> None:
            if step == last:
                raise RuntimeError("a bug")

        return fails

    output = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(HOW, "tracker", tracker)
        for last in (1, 5):  # the first of them before anything is saved
            with pytest.raises(RuntimeError, match="a bug"):
                failing(output, inputs, fails_at(last))
        if tracker == "wandb":
            logged = [row["step"] for row in Run(output, {}).rows]
            assert logged == [1, 2, 3, 4, 5]
            before = set((output / TRACKERS / "wandb").iterdir())
        train(output, inputs, **HOW)
    if tracker == "tensorboard":
        assert steps_followed(output) == list(range(1, STEPS + 1))
        return
    (run,) = (output / TRACKERS / "wandb").glob("offline-run-*")
    assert run not in before
    assert steps_of_wandb(run) == list(range(1, STEPS + 1))
    assert (output / METRICS).is_file()


def steps_of_wandb(run: Path) -> list[int]:
    """The steps of an offline run's history: records in a log as LevelDB writes it."""
    from wandb.proto.wandb_internal_pb2 import Record

    header, block, whole_or_last = 7, 32768, (1, 4)
    content, place = next(run.glob("*.wandb")).read_bytes(), header
    found, record = [], b""
    while place + header <= len(content):
        if block - place % block < header:  # too little left of the block for another record
            place += block - place % block
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + header])
        record += content[place + header : place + header + length]
        place += header + length
        if kind in whole_or_last:
            (parsed := Record()).ParseFromString(record)
            record = b""
            if parsed.WhichOneof("record_type") == "history":
                found.append(parsed.history.step.num)
    return found
