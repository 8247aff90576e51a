"""What a run writes beside metrics.jsonl: event files of TensorBoard, or an offline run of W&B."""

import os
from pathlib import Path
from typing import Any

from composer import Logger, State
from composer.loggers import LoggerDestination, TensorboardLogger


class OfflineRun(LoggerDestination):  # type: ignore[misc]
    """A run to `wandb sync` later. Composer's own logger wants an older wandb, and the network.

    Args:
        folder: where its files go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._run = folder, None  # type: Path, Any

    def init(self, state: State, logger: Logger) -> None:
        """Begin it."""
        import wandb

        os.environ["WANDB_SILENT"] = "true"
        self._run = wandb.init(dir=str(self._folder), mode="offline")

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Write the metrics of a step."""
        self._run.log(metrics, step=step)

    def post_close(self) -> None:
        """End it, whole."""
        if self._run is not None:
            self._run.finish()


def trackers(name: str, folder: Path) -> list[LoggerDestination]:
    """Those that write below `folder`; of `none`, none."""
    if name == "none":
        return []
    folder.mkdir(parents=True, exist_ok=True)
    if name == "tensorboard":
        return [TensorboardLogger(log_dir=str(folder / "tensorboard"))]
    return [OfflineRun(folder)]
