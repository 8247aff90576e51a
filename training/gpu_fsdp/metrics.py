"""A run's metrics: the progress line, metrics.jsonl, and a tracker's files."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from espalier.manifest import METRICS, TRACKERS
from espalier.progress import Progress
from training.gpu_fsdp.job import Job


class Metrics:
    """Followed by the first rank; the others only count."""

    def __init__(self, output: Path, title: str, job: Job, first: int, rank: int) -> None:
        self.last: dict[str, Any] = {}
        self._speeds: list[float] = []
        self._shares: list[float] = []
        self._first, self._rank = first, rank
        self._tracker: Any = None
        if rank == 0:
            keep_before(output / METRICS, first)
            progress = Progress(output / METRICS)
            self._steps = progress.steps(f"train {title}", job.budget.steps, first)
            if job.parameters.tracker != "none":
                self._tracker = _tracker(job.parameters.tracker, output / TRACKERS, title, job)

    @property
    def speed(self) -> float:
        """Tokens a second, the median step's."""
        return sorted(self._speeds)[len(self._speeds) // 2] if self._speeds else 0.0

    @property
    def data_share(self) -> float:
        """Part of a step that waits for data, the median step's."""
        return sorted(self._shares)[len(self._shares) // 2] if self._shares else 0.0

    def advance(self, **values: Any) -> None:
        """One step's."""
        self.last = values
        self._speeds.append(values["tokens_per_second"])
        self._shares.append(values["data_share"])
        if self._rank == 0:
            self._line.advance(**values)
            if self._tracker is not None:
                self._tracker.log(values, step=self._first + len(self._speeds))

    def __enter__(self) -> "Metrics":
        if self._rank == 0:
            self._line = self._steps.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._rank == 0:
            self._steps.__exit__(kind, value, trace)
            if self._tracker is not None:
                self._tracker.finish()


def keep_before(path: Path, step: int) -> None:
    """Drop the lines of steps that an interrupted run made and this one makes again."""
    if not path.is_file():
        return
    lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    path.write_text("".join(f"{line}\n" for line in kept))


def _tracker(name: str, folder: Path, title: str, job: Job) -> Any:
    """One of accelerate's: event files of TensorBoard, or an offline run to `wandb sync` later."""
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    folder.mkdir(exist_ok=True)
    if name == "tensorboard":
        tracker = TensorBoardTracker(run_name="tensorboard", logging_dir=folder)
    else:
        os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "WANDB_SILENT": "true"}
        tracker = WandBTracker(run_name=title)
    tracker.start()
    return tracker
