"""What all tests share."""

import os
from pathlib import Path

import pytest

from espalier.contract.paths import ROOT
from espalier.host.images import known_images
from tests.run import mark_of


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


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Container tests run when asked for, and one at a time; so do those on the one cluster."""
    asked = os.environ.get("ESPALIER_CONTAINER_TESTS") == "1"
    for item in items:
        if item.get_closest_marker("slurm"):
            item.add_marker(pytest.mark.xdist_group("slurm"))
        if item.get_closest_marker("containers"):
            item.add_marker(pytest.mark.xdist_group("containers"))
            if not asked:
                item.add_marker(pytest.mark.skip(reason="ESPALIER_CONTAINER_TESTS=1 is not set"))
