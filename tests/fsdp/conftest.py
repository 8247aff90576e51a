"""A tiny model, token data for it, and pruned ones."""

from pathlib import Path

import pytest
import torch

from espalier.contract.pattern import Pattern
from espalier.contract.pruned import Masked
from tests.fsdp.tiny_runs import token_data
from tests.manifests import mark_pruned
from tests.tiny import tiny_llama
from tests.unit.tiny_checkpoints import load_all, rewrite


@pytest.fixture(scope="session")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("parent") / "tiny")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, parent: Path) -> Path:
    return token_data(tmp_path_factory.mktemp("data") / "walks", parent)


@pytest.fixture(scope="session")
def inputs(parent: Path, data: Path) -> dict[str, Path]:
    return {"model": parent, "data": data}


@pytest.fixture(scope="session", params=["unstructured", "2:4"])
def pruned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of each layer matrix's entries are zero, by magnitude."""
    model = tiny_llama(tmp_path_factory.mktemp("pruned") / "tiny")
    pattern = Pattern.parse(request.param)
    for name, weight in load_all(model).items():
        if ".layers." in name and weight.ndim == 2:
            group = weight.abs().reshape(-1, 4) if pattern.structured else weight.abs()
            low = group.argsort(1)[:, : group.shape[1] // 2]
            mask = torch.ones_like(group).scatter_(1, low, 0).reshape(weight.shape)
            rewrite(model, **{name.replace(".", "__"): weight * mask})
    mark_pruned(model, Masked(pattern=request.param, target=0.5, achieved=0.5))
    return model
