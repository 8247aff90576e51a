"""The model that is sheared, and three domains for it."""

from pathlib import Path

import pytest

import methods.sheared_llama.torchvision_operators  # noqa: F401 - before models are made
from tests.sheared.shearing import parent, three_domains


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parent(tmp_path_factory.mktemp("parent"))


@pytest.fixture(scope="session")
def domains(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    return three_domains(tmp_path_factory.mktemp("data"), model)
