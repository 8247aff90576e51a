"""A run's metrics: the progress line, metrics.jsonl, and a tracker's files."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from espalier.contract.manifest import METRICS, TRACKERS
from espalier.contract.progress import Progress, Steps, keep_before


class Metrics:
    """Followed by the first rank; the others only count.

    Attributes:
        speeds: tokens a second of each step.
        waits: part of each step that waited for data.
    """

    def __init__(self, first: int, steps: Steps | None = None, tracker: Any = None) -> None:
        self.speeds: list[float] = []
        self.waits: list[float] = []
        self._first, self._steps, self._tracker = first, steps, tracker

    def advance(self, **values: Any) -> None:
        """One step's."""
        self.speeds.append(values["tokens_per_second"])
        self.waits.append(values["data_share"])
        if self._steps is not None:
            self._steps.advance(**values)
        if self._tracker is not None:
            self._tracker.log(values, step=self._first + len(self.speeds))


@contextmanager
def followed(
    output: Path, title: str, span: tuple[int, int], rank: int, tracker: str = "none"
) -> Iterator[Metrics]:
    """Metrics of steps `span` (first, end), reported below `output` by the first rank."""
    first, end = span
    if rank:
        yield Metrics(first)
        return
    keep_before(output / METRICS, first)
    with ExitStack() as closing:
        progress = Progress(output / METRICS)
        steps = closing.enter_context(progress.steps(f"train {title}", end, first))
        followed = None
        if tracker != "none":
            followed = _tracker(tracker, output / TRACKERS, title, first)
            closing.callback(followed.finish)
            if tracker == "wandb":  # what it has of an earlier start cannot be cut off at a step
                for row in _rows(output / METRICS):
                    followed.log(row, step=row.pop("step"))
        yield Metrics(first, steps, followed)


def _rows(metrics: Path) -> list[dict[str, Any]]:
    """The steps in metrics.jsonl, as a tracker takes them."""
    if not metrics.is_file():
        return []
    rows = map(json.loads, metrics.read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in ("task", "elapsed_s")} for row in rows]


def _tracker(name: str, folder: Path, title: str, first: int) -> Any:
    """One of accelerate's: event files of TensorBoard, or an offline run to `wandb sync` later.

    Of the steps from `first` on, which are made again, none is left from an earlier start.
    """
    from accelerate import PartialState
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    PartialState()  # without it the first line that accelerate logs is an error
    folder.mkdir(exist_ok=True)
    if name == "tensorboard":
        tracker = TensorBoardTracker(
            run_name="tensorboard", logging_dir=folder, purge_step=first + 1
        )
    else:
        shutil.rmtree(folder / "wandb", ignore_errors=True)
        os.environ["WANDB_SILENT"] = "true"
        # Said outright: it reads the environment once in a process.
        tracker = WandBTracker(run_name=title, dir=str(folder), mode="offline")
    tracker.start()
    return tracker
