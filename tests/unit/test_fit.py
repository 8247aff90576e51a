"""What is refused for lack of disk."""

import os
from pathlib import Path

import pytest

from espalier.contract.stage import Estimate
from espalier.errors import EnvironmentFailure
from espalier.host import fit

SIZE = 1 << 20


def test_what_is_begun_has_its_place_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint's files are reserved at once: the same command has to fit a second time."""
    partial = tmp_path / "x.partial-0"
    (partial / "deep").mkdir(parents=True)
    monkeypatch.setattr(fit, "free_disk", lambda path: SIZE // 2)
    needs = Estimate(memory=1, disk=SIZE, seconds=1)
    with pytest.raises(EnvironmentFailure, match=r"1\.0 MiB of disk is needed and 512\.0 KiB is"):
        fit.check_fits(needs, tmp_path, None, partial)
    with (partial / "deep" / "model.safetensors").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, SIZE)
    fit.check_fits(needs, tmp_path, None, partial)
    with (partial / "deep" / "model.safetensors").open("wb") as file:
        file.truncate(SIZE)  # a hole has no place yet
    with pytest.raises(EnvironmentFailure, match="of disk is needed"):
        fit.check_fits(needs, tmp_path, None, partial)


def test_nothing_is_taken_by_what_is_not_there(tmp_path: Path) -> None:
    assert fit.taken_by(tmp_path / "nowhere") == 0
