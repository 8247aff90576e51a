"""A recovery's state on disk: adapters and AdamW's moments, and nothing of the frozen weights.

Working files below the partial result, safetensors and JSON alone; the next run of the same command
reads them.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.errors import EnvironmentFailure, InputError
from espalier.models.checkpoint.header import read_header
from espalier.models.checkpoint.reader import read_entry
from espalier.models.checkpoint.writer import write_safetensors
from training.gpu_fsdp.saved import COMPLETE, complete_steps

MOMENTS = ("exp_avg", "exp_avg_sq")
TENSORS = "adapters.safetensors"
KEPT = 2


class AdapterStates:
    """States `step-<n>` in a folder: complete once what is known of the run lies beside them."""

    def __init__(
        self, folder: Path, adapters: Mapping[str, nn.Parameter], optimizer: AdamW
    ) -> None:
        self._folder, self._adapters, self._optimizer = folder, adapters, optimizer

    def latest(self) -> int | None:
        """The step of the last complete one."""
        return max(complete_steps(self._folder), default=None)

    def wait(self) -> None:
        """Nothing is written in the background."""

    def save(self, step: int, facts: dict[str, Any]) -> None:
        """Write one, and remove all but the last two.

        Raises:
            EnvironmentFailure: the disk is full or cannot be written.
        """
        place = self._place(step)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        tensors: dict[str, Tensor] = dict(self._adapters)
        for name, weight in self._adapters.items():
            moments = self._optimizer.state[weight]
            tensors |= {f"{name}.{moment}": moments[moment] for moment in MOMENTS}
        write_safetensors(place / TENSORS, tensors)
        write_text(place / COMPLETE, to_json(facts))
        for earlier in sorted(complete_steps(self._folder))[:-KEPT]:
            shutil.rmtree(self._place(earlier))

    def load(self, step: int) -> dict[str, Any]:
        """Put a state's adapters and moments in place; the facts saved with it.

        Raises:
            EnvironmentFailure: it is damaged.
        """
        place = self._place(step)
        try:
            found = _read(place / TENSORS)
            facts = dict(json.loads((place / COMPLETE).read_text()))
            moments = {
                index: {
                    "step": torch.tensor(float(step)),
                    **{moment: found[f"{name}.{moment}"] for moment in MOMENTS},
                }
                for index, name in enumerate(self._adapters)
            }
            put(self._adapters, found)
        except (InputError, ValueError, KeyError, TypeError) as error:
            raise EnvironmentFailure(
                f"the state in {place} is damaged ({error}); remove it, and the same command goes "
                "on from the state before."
            ) from None
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        return facts

    def _place(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}"


def save_adapters(file: Path, adapters: Mapping[str, Tensor]) -> None:
    """Write adapters alone.

    Raises:
        EnvironmentFailure: the disk is full or cannot be written.
    """
    write_safetensors(file, dict(adapters))


def load_adapters(file: Path, adapters: Mapping[str, nn.Parameter]) -> None:
    """Put what `save_adapters` has written in place.

    Raises:
        InputError: the file is damaged.
    """
    put(adapters, _read(file))


def put(adapters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors of these names.

    Raises:
        KeyError: one is missing.
    """
    with torch.no_grad():
        for name, weight in adapters.items():
            weight.copy_(tensors[name])


def _read(file: Path) -> dict[str, Tensor]:
    return {name: read_entry(entry) for name, entry in read_header(file).items()}
