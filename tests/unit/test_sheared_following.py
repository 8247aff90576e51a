"""When a run of masks shows, saves, evaluates and ends."""

import json
import math
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import methods.sheared_llama.torchvision_operators  # noqa: F401 - before composer

pytestmark = pytest.mark.sheared_llama

pytest.importorskip("composer")

from composer import Event  # noqa: E402
from composer.devices import DeviceCPU  # noqa: E402

from espalier.contract.progress import Progress  # noqa: E402
from espalier.errors import DIVERGED, Diverged  # noqa: E402
from methods.sheared_llama.batch_loss import BatchLoss  # noqa: E402
from methods.sheared_llama.following import Following, figures_of_masks  # noqa: E402
from methods.sheared_llama.lagrangian import Lagrangian  # noqa: E402
from methods.sheared_llama.masks import Masks  # noqa: E402
from methods.sheared_llama.model import ShearedModel  # noqa: E402
from methods.sheared_llama.saved import (  # noqa: E402
    FOLDER,
    LATEST,
    RECOVERY,
    STOP,
    last_step,
    steps_saved,
)
from tests.unit.sheared import shapes_of, stock, target_of  # noqa: E402

LAST = 20


class State(SimpleNamespace):
    """As much of Composer's as is looked at."""

    def __init__(self, step: int, model: Any = None) -> None:
        super().__init__(
            timestamp=SimpleNamespace(batch=step),
            model=model,
            stopped=False,
            device=DeviceCPU(),
        )

    def stop_training(self) -> None:
        self.stopped = True


def following(scratch: Path, loss: float = 2.5) -> tuple[Following, ShearedModel]:
    model = stock(torch.float32)
    masks = Masks(shapes_of(model), torch.Generator().manual_seed(0))
    sheared = ShearedModel(model, masks, Lagrangian(target_of(model), 10), 1)
    with Progress(scratch / "metrics.jsonl").steps("shear", LAST) as steps:
        found = Following(
            *(steps, lambda: steps_saved(scratch), lambda: loss),
            partial(figures_of_masks, parent=shapes_of(model), seqlen=9),
            stop=scratch / STOP,
            last=LAST,
            save_every=6,
            evaluate_every=4,
        )
    return found, sheared


def test_saves_and_evaluations_are_due_at_their_steps_and_the_last(tmp_path: Path) -> None:
    run, _ = following(tmp_path)
    steps = range(1, LAST + 1)
    saves = [step for step in steps if run.saves(State(step), Event.BATCH_CHECKPOINT)]
    assert saves == [6, 12, 18, 20]
    evaluates = [step for step in steps if run.evaluates(State(step), Event.BATCH_END)]
    assert evaluates == [4, 8, 12, 16, 20]
    assert not run.saves(State(LAST), Event.EPOCH_CHECKPOINT)
    assert not run.evaluates(State(LAST), Event.FIT_END)


def test_a_signal_ends_it_behind_its_batch_with_a_checkpoint(tmp_path: Path) -> None:
    run, model = following(tmp_path)
    before, after, last = State(2, model), State(3, model), State(LAST, model)
    run.batch_end(before, None)
    run.ask(signal.SIGTERM, None)
    run.batch_end(after, None)
    run.batch_end(last, None)
    assert (before.stopped, after.stopped, last.stopped) == (False, True, False)
    assert run.saves(after, Event.BATCH_CHECKPOINT)
    assert not run.evaluates(after, Event.BATCH_END)


def test_a_file_ends_it_too(tmp_path: Path) -> None:
    """Which a stage makes for the ranks that it has started."""
    run, model = following(tmp_path)
    (tmp_path / STOP).touch()
    asked = State(3, model)
    run.batch_end(asked, None)
    assert asked.stopped
    assert run.ends
    assert run.saves(asked, Event.BATCH_CHECKPOINT)


def test_a_step_says_what_it_came_to(tmp_path: Path) -> None:
    run, model = following(tmp_path)
    with torch.no_grad():
        model.lagrangian.lambda1.copy_(torch.tensor([0.5, -2.0, 1.0, 0.0]))
    run.batch_end(State(5, model), None)
    (line,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    kept = {site: values.detach() for site, values in model.masks.expected().items()}
    assert (line["task"], line["loss"], line["target"], line["multiplier"]) == (
        *("shear", 2.5, 0.4, 2.0),  # behind 4 of the 10 steps in which targets rise
    )
    assert line["hidden"] == pytest.approx(float(kept["hidden"].sum()), rel=1e-5)
    assert line["layers"] == pytest.approx(float(kept["layers"].sum()), rel=1e-5)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_it(tmp_path: Path, loss: float) -> None:
    run, model = following(tmp_path, loss)
    with pytest.raises(Diverged, match="at step 3; nothing was saved yet"):
        run.batch_end(State(3, model), None)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / LATEST).symlink_to("step2.pt")
    with pytest.raises(Diverged, match="at step 3; the state of step 2 is kept") as refusal:
        run.batch_end(State(3, model), None)
    assert refusal.value.exit_code == DIVERGED
    assert not (tmp_path / "metrics.jsonl").exists()


def test_where_a_run_goes_on(tmp_path: Path) -> None:
    assert (steps_saved(tmp_path), last_step(tmp_path)) == (0, None)
    latest = tmp_path / FOLDER / LATEST
    latest.parent.mkdir()
    latest.write_bytes(b"no link")
    assert steps_saved(tmp_path) == 0
    latest.unlink()
    latest.symlink_to("step120.pt")
    assert (steps_saved(tmp_path), last_step(tmp_path)) == (120, "step 120")
    (tmp_path / RECOVERY).mkdir()
    (tmp_path / RECOVERY / LATEST).symlink_to("step7.pt")
    assert (steps_saved(tmp_path), steps_saved(tmp_path, RECOVERY)) == (120, 7)
    assert last_step(tmp_path) == "step 127"


def test_a_batch_s_loss_is_the_mean_over_its_rows() -> None:
    loss, state = BatchLoss(), State(1)
    for value, rows in ((2.0, 3), (5.0, 1)):
        state.loss, state.batch = torch.tensor(value), {"input_ids": torch.zeros(rows, 4)}
        loss.after_loss(state, None)
    assert loss.cross_entropy == pytest.approx((3 * 2 + 5) / 4)
    loss.batch_start(state, None)
    loss.after_loss(state, None)
    assert loss.cross_entropy == pytest.approx(5)
