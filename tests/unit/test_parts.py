"""Parts of an evaluation are saved as they end, and none is measured twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from espalier.contract.saved import noted
from espalier.errors import InputError
from eval.parts import FOLDER, how_run, measured_parts


def part(value: float, **config: Any) -> dict[str, Any]:
    return {"results": {"task": {"acc,none": value, "acc_stderr,none": float("nan")}}} | (
        {"config": config} if config else {}
    )


class Measures:
    """Three, of which one may fail; `asked` are those that were measured."""

    def __init__(self, failing: str = "", value: float = 0.1) -> None:
        self.asked: list[str] = []
        self._failing, self._value = failing, value

    def of(self) -> dict[str, Callable[[], dict[str, Any]]]:
        return {name: lambda name=name: self._measure(name) for name in ("a:5", "b", "c/d")}

    def _measure(self, name: str) -> dict[str, Any]:
        self.asked.append(name)
        if name == self._failing:
            raise MemoryError
        return part(self._value)


def test_a_failure_loses_one_part_at_most(tmp_path: Path) -> None:
    first = Measures(failing="b")
    with pytest.raises(MemoryError):
        measured_parts(tmp_path, first.of())
    assert first.asked == ["a:5", "b"]
    assert noted(tmp_path) == "b"
    second = Measures()
    resumed = measured_parts(tmp_path, second.of())
    assert second.asked == ["b", "c/d"]
    (other := tmp_path / "other").mkdir()
    assert resumed == measured_parts(other, Measures().of())
    assert noted(tmp_path) == "the results"


def test_a_part_is_as_json_holds_it(tmp_path: Path) -> None:
    (found,) = measured_parts(tmp_path, {"a": lambda: part(1 / 3)})
    assert found["results"]["task"] == {"acc,none": 1 / 3, "acc_stderr,none": "N/A"}
    assert len(list((tmp_path / FOLDER).iterdir())) == 1


def test_nothing_that_is_nan_is_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"acc,none became NaN or infinite"):
        measured_parts(tmp_path, {"a": lambda: part(float("nan"))})
    assert not list((tmp_path / FOLDER).iterdir())
    assert noted(tmp_path) is None


def test_a_part_that_was_cut_off_is_told_of(tmp_path: Path) -> None:
    measured_parts(tmp_path, {"a": lambda: part(1.0)})
    (file,) = (tmp_path / FOLDER).iterdir()
    file.write_text("{")
    with pytest.raises(InputError, match="is not JSON; delete it"):
        measured_parts(tmp_path, {"a": lambda: part(1.0)})


def test_how_parts_were_run_is_added_up() -> None:
    parts = [
        part(0.1),
        part(0.1, backend="torch", tokens={"rows": 3, "tree": 2}, cut=2, backend_fallback=["x"]),
        part(
            0.1, backend="torch", tokens={"rows": 4, "tree": 4}, cut=1, backend_fallback=["x", "y"]
        ),
    ]
    assert how_run(parts) == {
        "backend": "torch",
        "tokens": {"rows": 7, "tree": 6},
        "cut": 3,
        "backend_fallback": ["x", "y"],
    }
    assert all("config" not in each for each in parts)
    assert how_run(parts) == {}
