"""Saved states: several processes, several names at once, steps that are made again."""

from pathlib import Path

import pytest

from tests.maxtext.machines import run_together
from tests.ports import free_ports

jnp = pytest.importorskip("jax.numpy")
from tests.maxtext.two_writers import ROUNDS  # noqa: E402
from training.tpu_maxtext.state import SavedStates  # noqa: E402

pytestmark = pytest.mark.maxtext


@pytest.mark.slow
def test_two_names_are_written_at_once_by_two_processes(tmp_path: Path) -> None:
    """Each process's writers in the background may come to their barriers in another order."""
    [port] = free_ports(1)
    words = ("tests.maxtext.two_writers",)
    run_together(((*words, str(number), str(port), str(tmp_path)), {}) for number in range(2))
    assert {path.name for path in (tmp_path / "steps").iterdir()} == {f"{ROUNDS - 2}", f"{ROUNDS}"}
    assert {path.name for path in (tmp_path / "best").iterdir()} == {f"{ROUNDS}"}


def test_a_step_that_is_made_again_is_saved_again(tmp_path: Path) -> None:
    """What came before stays until the new one is complete."""
    states = SavedStates(str(tmp_path), "best", most=1)
    for value, step in enumerate((10, 30, 20, 20)):
        states.forget(step)
        assert states.latest() == {0: None, 1: 10, 2: None, 3: None}[value]
        states.save(step, {("weight",): jnp.full(3, value)}, {})
        states.wait()
    found, _ = states.load(20, {("weight",): jnp.zeros(3, int)})
    assert found["weight",].tolist() == [3, 3, 3]
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["20"]
