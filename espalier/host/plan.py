"""What a run is expected to need, before it starts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espalier.contract.parameters import Parameters
from espalier.contract.stage import Estimate, Stage
from espalier.host.fit import check_fits, free_disk, free_memory, show_size, show_time


@dataclass(frozen=True)
class Plan:
    """A stage's estimate, where it makes one and its model is at hand."""

    estimate: Estimate | None

    @classmethod
    def of(
        cls,
        stage: Stage,
        parameters: Parameters,
        inputs: Mapping[str, Path],
        listed: Mapping[str, Any],
    ) -> "Plan":
        """Estimate from the model's config.json, or from what models.toml lists of its shape."""
        path = inputs["model"] / "config.json" if "model" in inputs else None
        config = json.loads(path.read_bytes()) if path and path.is_file() else listed
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
        """The estimate beside what is at hand, for DRY_RUN=1."""
        if not self.estimate:
            return {"memory": "not estimated", "disk": "not estimated", "time": "not estimated"}
        return {
            "memory": f"{show_size(self.estimate.memory)} at the peak, "
            f"{show_size(free_memory(limit))} at hand",
            "disk": f"{show_size(self.estimate.disk)}, {show_size(free_disk(store))} at hand",
            "time": f"about {show_time(self.estimate.seconds)} on two cores",
        }
