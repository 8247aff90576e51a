"""A validation's loss: one number, whatever ranks, micro batches and windows do not divide."""

from pathlib import Path
from threading import current_thread, main_thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from espalier.contract.processes import Share
from espalier.data.tokens.reader import TokenData
from tests.fsdp.tiny_runs import job_of, train
from training.gpu_fsdp import trainer
from training.gpu_fsdp.batches import Sequences, Windows
from training.gpu_fsdp.model import allocate, empty_model, load_weights
from training.gpu_fsdp.trainer import FsdpTrainer, ValidationWindows

pytestmark = pytest.mark.fsdp

SEQLEN = 16


def rank(job: Any, model: Any, windows: ValidationWindows, micro: int, share: Share) -> FsdpTrainer:
    """What a rank needs to validate, around a model that is not sharded."""
    made = FsdpTrainer.__new__(FsdpTrainer)
    made.job, made._share, made._micro, made._device = job, share, micro, "cpu"
    made._valid, made._parts = windows, SimpleNamespace(model=model)  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("document_mask", [False, True])
def test_the_loss_is_that_of_stock_transformers(
    inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, document_mask: bool
) -> None:
    """1 to 4 ranks, micro batches of 1 to 3, 1 to 7 windows: what each rank adds to the sum."""
    monkeypatch.setattr(trainer, "_summed", lambda values: values.clone())
    job = job_of(inputs)
    model = empty_model(job.config)
    allocate(model, "cpu")
    load_weights(model.named_weights(), inputs["model"])
    stock = AutoModelForCausalLM.from_pretrained(inputs["model"], attn_implementation="sdpa")
    windows = Windows(TokenData(inputs["data"]), "valid", SEQLEN, document_mask)
    for count in range(1, 8):
        whole = windows.read(np.arange(count))
        with torch.no_grad():
            logits = stock(whole.inputs, position_ids=whole.positions, use_cache=False).logits
        expected = cross_entropy(logits.flatten(0, 1), whole.targets.flatten()).item()
        for world in range(1, 5):
            for micro in range(1, 4):
                parts = [
                    rank(job, model, ValidationWindows(windows, count), micro, Share(r, world))
                    for r in range(world)
                ]
                found = sum(part._validate() or 0.0 for part in parts)
                assert found == pytest.approx(expected, rel=1e-6), (count, world, micro)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_inputs_and_targets_share_no_memory(inputs: dict[str, Path], count: int) -> None:
    windows = Windows(TokenData(inputs["data"]), "train", SEQLEN, False)
    read = windows.read(np.arange(count))
    before = read.inputs.clone()
    assert torch.equal(read.inputs[:, 1:], read.targets[:, :-1])
    counted = read.counting(torch.zeros(count, dtype=torch.bool))
    assert (counted.targets == -100).all()
    assert (read.targets >= 0).all()
    read.targets.fill_(-100)
    assert torch.equal(read.inputs, before)


class Waits(TorchDispatchMode):
    """Counts what would wait for a device: a value that Python asks for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("document_mask", [False, True])
def test_no_micro_batch_waits_for_the_device(
    tmp_path: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, document_mask: bool
) -> None:
    """As many values are asked for in a step of four parts as in a step of one."""
    plain, counted = FsdpTrainer._step, []

    def step(self: FsdpTrainer, number: int, batch: Sequences) -> dict[str, float]:
        with Waits() as waits, monkeypatch.context() as patch:
            cpu = torch.Tensor.cpu

            def copied(tensor: torch.Tensor) -> torch.Tensor:
                waits.count += current_thread() is main_thread()  # a state is saved beside it
                return cpu(tensor)

            patch.setattr(torch.Tensor, "cpu", copied)
            found = plain(self, number, batch)
        counted.append(waits.count)
        return found

    monkeypatch.setattr(FsdpTrainer, "_step", step)
    for micro in (4, 1):
        how = {"micro_batch": micro, "document_mask": document_mask, "valid_tokens": 64}
        taught = {**inputs, "teacher": inputs["model"]}
        train(tmp_path / str(micro), taught, tokens=2 * 64, **how)
    assert counted == [1] * 4  # the gradient's norm
