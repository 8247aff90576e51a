import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from espalier.contract.lock import artifact_lock, is_held
from espalier.errors import EnvironmentFailure


def _hold(path: Path, held: Event) -> None:
    with artifact_lock(path, wait=True, say=print):
        held.set()
        time.sleep(60)


def _holder(path: Path) -> multiprocessing.Process:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(path, held))
    process.start()
    assert held.wait(30)
    return process  # type: ignore[return-value]


def test_a_second_maker_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    process = _holder(tmp_path / "models__m.lock")
    try:
        assert is_held(tmp_path / "models__m.lock")
        with (
            pytest.raises(
                EnvironmentFailure, match=f"models__m is being made by process {process.pid}"
            ),
            artifact_lock(tmp_path / "models__m.lock", wait=False, say=print),
        ):
            pass
    finally:
        process.kill()
        process.join()


def test_a_dead_makers_lock_is_taken_over(tmp_path: Path) -> None:
    process = _holder(tmp_path / "m.lock")
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not is_held(tmp_path / "m.lock")
    with artifact_lock(tmp_path / "m.lock", wait=False, say=print):
        assert is_held(tmp_path / "m.lock")
    assert not (tmp_path / "m.holder").exists()
