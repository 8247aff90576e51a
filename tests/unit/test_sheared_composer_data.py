"""Composer's Trainer saves and loads where the domains' sampler is, with its own checkpoints."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.sheared_llama

import methods.sheared_llama.torchvision_operators  # noqa: E402,F401 - before composer

pytest.importorskip("composer")

from composer import Callback, State, Trainer  # noqa: E402
from composer.models import ComposerModel  # noqa: E402

from methods.sheared_llama.batches import DomainBatches  # noqa: E402
from methods.sheared_llama.domains import ArraySource  # noqa: E402
from methods.sheared_llama.sampler import DomainSampler  # noqa: E402

CHANGED = {3: np.array([0.9, 0.1]), 5: np.array([0.2, 0.8])}
"""Proportions from those steps on."""


class Heard(ComposerModel):  # type: ignore[misc]
    """Keeps what it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.rows: list[list[int]] = []

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        self.rows.append(batch["input_ids"][:, 0].tolist())
        return self.weight * batch["input_ids"].float().mean()

    def loss(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        return outputs.square()


class Loading(Callback):  # type: ignore[misc]
    """Changes the proportions as an evaluation would."""

    def __init__(self, sampler: DomainSampler) -> None:
        self._sampler = sampler

    def batch_end(self, state: State, logger: Any) -> None:
        step = int(state.timestamp.batch)
        assert step == self._sampler.place.step
        if step in CHANGED:
            self._sampler.set_proportions(CHANGED[step])


def fit(folder: Path, until: int, load: Path | None = None) -> tuple[list[list[int]], Any]:
    sources = {
        "a": ArraySource(np.arange(7)[:, None] * [1, 0]),
        "b": ArraySource(np.arange(100, 190)[:, None] * [1, 0]),
    }
    sizes = {name: len(source) for name, source in sources.items()}
    sampler = DomainSampler(sizes, np.array([0.5, 0.5]), 4, seed=2)
    data = DomainBatches(sources, sampler)
    model = Heard()
    trainer = Trainer(
        model=model,
        train_dataloader=data.loader(),
        max_duration=f"{until}ba",
        callbacks=[Loading(sampler)],
        optimizers=torch.optim.SGD(model.parameters(), lr=1e-9),
        device="cpu",
        device_train_microbatch_size=4,  # needed where the loader does not batch
        save_folder=str(folder),
        save_interval="1ba",
        save_overwrite=True,
        load_path=None if load is None else str(load),
        progress_bar=False,
    )
    trainer.fit()
    trainer.close()
    return model.rows, sampler.state_dict()


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_resumed_trainer_goes_on_with_the_same_rows(tmp_path: Path, stop: int) -> None:
    rows, state = fit(tmp_path / "whole", 8)
    assert len(rows) == 8
    before, _ = fit(tmp_path / "stopped", stop)
    saved = tmp_path / "stopped" / f"ep0-ba{stop}-rank0.pt"
    after, again = fit(tmp_path / "resumed", 8, saved)
    assert before + after == rows
    assert again == state
