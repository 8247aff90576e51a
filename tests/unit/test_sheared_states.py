"""Checkpoints that are refused before Composer reads them."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from espalier.errors import InputError
from espalier.models.checkpoint.states import ONLY_WEIGHTS, only_known, require_readable


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def whole() -> dict[str, Any]:
    """What Composer's own are made of."""
    numbers = {"torch": torch.arange(3), "numpy": np.random.default_rng(0).bit_generator.state}
    keys = np.arange(624, dtype=np.uint32)
    return {"state": {"weight": torch.ones(2)}, "rng": [numbers, ("MT19937", keys, 1, 0, 0.0)]}


def test_what_composer_writes_is_read(tmp_path: Path) -> None:
    torch.save(whole(), tmp_path / "a.pt")
    require_readable(tmp_path / "a.pt")
    assert ONLY_WEIGHTS not in os.environ


@pytest.mark.parametrize("where", ["state", "rng", "beside", "legacy", "pickle"])
def test_nothing_that_is_planted_runs(tmp_path: Path, where: str) -> None:
    path, ran = tmp_path / "a.pt", tmp_path / "ran"
    content = whole() | {where: Planted(ran)}
    if where == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=where != "legacy")
    with pytest.raises(InputError, match=r"is no whole checkpoint of this run.*; remove "):
        require_readable(path)
    with only_known(), pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=False)  # as Composer calls it
    assert not ran.exists()


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(whole(), path)
    content = path.read_bytes()
    torch.save({"weights": torch.zeros(2)}, path)
    for bad in (path.read_bytes(), b"", content[:10], content[:-50], content[len(content) // 2 :]):
        path.write_bytes(bad)
        with pytest.raises(InputError, match="is no whole checkpoint of this run"):
            require_readable(path)
    path.unlink()
    with pytest.raises(InputError, match="is no whole checkpoint of this run"):
        require_readable(path)
