"""What all tests share."""

import importlib.util
import os
from collections.abc import Generator
from pathlib import Path

import pytest

from espalier.contract.paths import ROOT
from espalier.host.images import known_images
from tests.run import mark_of
from tests.slots import slot
from tests.warm.interpreters import forget_variables_of_packages

if importlib.util.find_spec("composer"):  # it and streaming import torchvision
    import methods.sheared_llama.torchvision_operators  # noqa: F401

ASKED_FOR = {"containers": "ESPALIER_CONTAINER_TESTS", "exhaustive": "SLOW"}
"""The marks of tests that run only where a variable is 1."""


def pytest_configure(config: pytest.Config) -> None:
    """Each image is a marker, of the tests that need its packages."""
    for image in known_images():
        config.addinivalue_line("markers", f"{mark_of(image)}: needs the packages of image {image}")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference models and outputs, which is not part of the project."""
    folder = Path(os.environ.get("ESPALIER_SHARED", ROOT.parent / "shared"))
    if not (folder / "models" / "stories260k").is_dir():
        pytest.skip(f"no reference data at {folder}")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for mark, variable in ASKED_FOR.items():
        if os.environ.get(variable) != "1":
            for item in items:
                if item.get_closest_marker(mark):
                    item.add_marker(pytest.mark.skip(reason=f"{variable}=1 is not set"))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before pytest-timeout counts
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """A test waits for its slot before its own time begins."""
    with slot():
        try:
            return (yield)
        finally:
            forget_variables_of_packages()
