"""Training states are read as data: what a pickle in them asks for is not done."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import metadata

from espalier.contract.machine import failure_of_the_machine
from espalier.errors import EnvironmentFailure
from training.gpu_fsdp.reading import DESCRIBING, PlainPlanner, StateReader
from training.gpu_fsdp.saved import COMPLETE

pytestmark = pytest.mark.fsdp


class Planted:
    """What a pickle is able to do to whoever reads it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def state(seed: int) -> dict[str, Any]:
    """As a model and two optimizers give theirs."""
    generator = torch.Generator().manual_seed(seed)
    weights = {str(n): torch.rand(3, n + 1, generator=generator) for n in range(4)}
    groups = [{"lr": 0.1 * seed, "betas": (0.9, 0.99), "foreach": None, "name": "a", "params": [0]}]
    return {
        "model": {**weights, "half": torch.ones(2, dtype=torch.bfloat16)},
        "optimizers": {"state": {"step": torch.tensor(float(seed))}, "param_groups": groups},
    }


def load(place: Path, into: dict[str, Any]) -> dict[str, Any]:
    dcp.load(into, storage_reader=StateReader(place), planner=PlainPlanner(), no_dist=True)
    return into


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    dcp.save(state(1), checkpoint_id=tmp_path / "state", no_dist=True)
    return tmp_path / "state"


def test_a_member_that_is_stored_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python 3.11.2 stores those of enumerations; of nothing else is anything fetched."""
    with monkeypatch.context() as patched:
        by_name = lambda member, protocol: (getattr, (type(member), member.name))  # noqa: E731
        patched.setattr(metadata._MEM_FORMAT_ENCODING, "__reduce_ex__", by_name)
        dcp.save(state(1), checkpoint_id=tmp_path, no_dist=True)
    assert b"getattr" in (tmp_path / COMPLETE).read_bytes()
    load(tmp_path, state(2))
    (tmp_path / COMPLETE).write_bytes(pickle.dumps(Fetched(torch.Size, "__init__")))
    with pytest.raises(EnvironmentFailure, match="it asks for __init__ of"):
        StateReader(tmp_path)


class Fetched:
    """An attribute of anything, as a pickle may ask for it."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self) -> Any:
        return getattr, (self.owner, self.name)


def test_what_was_saved_is_read(saved: Path) -> None:
    found, wanted = load(saved, state(2)), state(1)
    assert found["optimizers"]["param_groups"] == wanted["optimizers"]["param_groups"]
    for part in ("model", "optimizers"):
        for name, tensor in wanted[part].items():
            if isinstance(tensor, torch.Tensor):
                assert torch.equal(found[part][name], tensor)


@pytest.mark.parametrize(
    "content",
    [b"", b"no pickle", b"\x80\x04", pickle.dumps({"a": 1})],
    ids=["empty", "text", "cut", "other"],
)
def test_what_describes_nothing_is_refused(saved: Path, content: bytes) -> None:
    (saved / COMPLETE).write_bytes(content)
    with pytest.raises(EnvironmentFailure, match="is no description of a training state"):
        load(saved, state(2))


def test_a_description_does_nothing_else(saved: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    good = pickle.loads((saved / COMPLETE).read_bytes())
    good.planner_data = Planted(mark)
    (saved / COMPLETE).write_bytes(pickle.dumps(good))
    with pytest.raises(EnvironmentFailure, match=r"\(it names posix\.mkdir\) and is not read"):
        load(saved, state(2))
    assert not mark.exists()
    pickle.loads((saved / COMPLETE).read_bytes())  # as whoever reads it without care
    assert mark.exists()


def test_what_is_no_tensor_does_nothing_either(tmp_path: Path) -> None:
    mark, place = tmp_path / "mark", tmp_path / "state"
    spoilt = state(1)
    spoilt["optimizers"]["param_groups"][0]["lr"] = Planted(mark)
    dcp.save(spoilt, checkpoint_id=place, no_dist=True)
    with pytest.raises(BaseException) as raised:
        load(place, state(2))
    failure = failure_of_the_machine(raised.value)
    assert failure is not None
    assert "holds more than numbers, texts and lists" in str(failure)
    assert not mark.exists()


def test_what_describes_is_known_by_name() -> None:
    """No name that another version of torch has lost, but for where Python keeps its paths."""
    import importlib

    for module, names in DESCRIBING.items():
        if module != "pathlib._local":
            assert all(hasattr(importlib.import_module(module), name) for name in names)
