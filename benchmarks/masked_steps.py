"""Composer's steps with masks and without, timed one by one."""

import time
from pathlib import Path
from typing import Any

import torch
from composer import Algorithm, Callback, ComposerModel, Logger, State, Trainer
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from espalier.models.loading import load_stock
from espalier.models.shapes import Shapes, read_config
from methods.sheared_llama.lagrangian import Lagrangian
from methods.sheared_llama.learning import MaskLearning, optimizer, optimizer_of_weights
from methods.sheared_llama.masks import Masks
from methods.sheared_llama.model import ShearedModel, StockModel
from methods.sheared_llama.target import Sizes, Target

LR = 1e-4


class Clock(Callback):  # type: ignore[misc]
    """Seconds from the end of one batch to the end of the next."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def fit_start(self, state: State, logger: Logger) -> None:
        """Composer's event."""
        self._began = time.perf_counter()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Composer's event."""
        now = time.perf_counter()
        self.seconds.append(now - self._began)
        self._began = now


def masked_steps(model: Path, tokens: Path, steps: int) -> list[float]:
    """Seconds of steps that learn masks to half of the neurons and heads beside the weights."""
    stock, shapes = load_stock(model, torch.float32), Shapes.of(read_config(model))
    target = Target.of(shapes, Sizes(heads=shapes.heads // 2, ffn=shapes.intermediate // 2))
    masks = Masks(shapes, torch.Generator().manual_seed(0))
    sheared = ShearedModel(stock, masks, Lagrangian(target, 1), 1)
    adam = optimizer(sheared, weights=LR, masks=1.0, multipliers=1.0)
    return _timed(sheared, adam, tokens, steps, [MaskLearning(target, 0, sampled=True)])


def plain_steps(model: Path, tokens: Path, steps: int) -> list[float]:
    """Seconds of steps that train the weights alone."""
    plain = StockModel(load_stock(model, torch.float32), domains=1)
    adam = optimizer_of_weights(plain.parameters(), LR)
    return _timed(plain, adam, tokens, steps, [])


def _timed(
    model: ComposerModel, adam: Any, tokens: Path, steps: int, algorithms: list[Algorithm]
) -> list[float]:
    ids = load_file(tokens)["input_ids"]
    clock = Clock()
    Trainer(
        model=model,
        train_dataloader=DataLoader([{"input_ids": ids}] * steps, batch_size=None),
        max_duration=f"{steps}ba",
        optimizers=adam,
        algorithms=algorithms,
        callbacks=[clock],
        device="cpu",
        device_train_microbatch_size=len(ids),
        precision="fp32",
        seed=0,
        deterministic_mode=True,
        progress_bar=False,
    ).fit()
    return clock.seconds
