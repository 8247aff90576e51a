"""What a run is expected to need beside what the machine has, before it starts."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from espalier.contract.measure import show_size, show_time
from espalier.contract.parameters import Parameters
from espalier.contract.stage import Estimate, Stage
from espalier.errors import EnvironmentFailure
from espalier.models.shapes import config_file


def free_memory(limit: int | None) -> int:
    """Memory a stage may take: what is available, or the limit where it is lower."""
    available = int(psutil.virtual_memory().available)
    return min(available, limit) if limit else available


def free_disk(path: Path) -> int:
    """Free bytes where `path` is or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def require_gpu() -> None:
    """Refuse ACCEL=cuda where the machine shows no GPU, before an image is built for it.

    Raises:
        EnvironmentFailure: there is none.
    """
    if not Path("/dev/nvidiactl").exists() and not shutil.which("nvidia-smi"):
        raise EnvironmentFailure(
            "ACCEL=cuda was requested, but no GPU is visible here; use ACCEL=cpu, or a machine "
            "with one."
        )


def check_fits(estimate: Estimate, store: Path, limit: int | None) -> None:
    """Refuse a run that cannot fit.

    Raises:
        EnvironmentFailure: memory or disk is short.
    """
    needs = (
        ("memory", estimate.memory, free_memory(limit)),
        ("disk", estimate.disk, free_disk(store)),
    )
    for what, need, have in needs:
        if need > have:
            raise EnvironmentFailure(
                f"about {show_size(need)} of {what} is needed and {show_size(have)} is available; "
                "free some, or try anyway with FORCE=1."
            )


@dataclass(frozen=True)
class Fit:
    """A stage's estimate, where it makes one and its model is available."""

    estimate: Estimate | None

    @classmethod
    def of(
        cls,
        stage: Stage,
        parameters: Parameters,
        inputs: Mapping[str, Path],
        known: Mapping[str, Any],
    ) -> "Fit":
        """Estimate from the model's config.json, or from what is known of it before it is there."""
        path = inputs["model"] / "config.json" if "model" in inputs else inputs.get("architecture")
        config = config_file(path) if path and path.is_file() else known
        if stage.estimate is None or (path and not config):
            return cls(None)
        return cls(stage.estimate(parameters, config))

    def check_fits(self, store: Path, limit: int | None) -> None:
        """Refuse what cannot fit.

        Raises:
            EnvironmentFailure: memory or disk is short.
        """
        if self.estimate:
            check_fits(self.estimate, store, limit)

    def rows(self, store: Path, limit: int | None) -> dict[str, str]:
        """The estimate beside what is available, for DRY_RUN=1."""
        if not self.estimate:
            return {"memory": "not estimated", "disk": "not estimated", "time": "not estimated"}
        return {
            "memory": f"{show_size(self.estimate.memory)} at the peak, "
            f"{show_size(free_memory(limit))} available",
            "disk": f"{show_size(self.estimate.disk)}, {show_size(free_disk(store))} available",
            "time": f"about {show_time(self.estimate.seconds)} on two cores",
        }
