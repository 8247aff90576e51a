"""The hashes by which an image is known to be fresh."""

import shutil
from pathlib import Path

import pytest

from espalier.errors import InputError
from espalier.images.definition import CODE, IMAGES, ROOT, Image, known_images, load_image

BASE = "python:3.11@sha256:0"


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """The image `wanda` in a copy of what goes into it."""
    shutil.copytree(IMAGES, tmp_path / "images")
    for name in CODE:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, tmp_path / name)
    return load_image("wanda", tmp_path / "images")


def test_the_shared_image_is_built_first() -> None:
    assert known_images()[0] == "torch"
    assert {"wanda", "eval", "export", "fsdp", "minitron"} <= set(known_images())
    assert not {"host", "dev"} & set(known_images())


def test_unknown_names_are_told_the_known_ones() -> None:
    with pytest.raises(InputError, match="no image wander; known images: torch, eval, export, f"):
        load_image("wander")
    with pytest.raises(InputError, match="ACCEL=tpu has no image: give cpu or cuda"):
        load_image("wanda").lock_hash("tpu")


@pytest.mark.parametrize(
    "path",
    [
        "images/wanda/requirements.lock",
        "images/torch/requirements-cpu.lock",
        "images/torch/installer.lock",
        "images/torch/Dockerfile",
        "images/wanda/imports.txt",
        "espalier/__init__.py",
        "models.toml",
    ],
)
def test_whatever_goes_in_changes_the_context(image: Image, path: str) -> None:
    before = image.context_hash("cpu", BASE)
    file = image.folder.parents[1] / path
    file.write_text(file.read_text() + "\nchanged==1\n")
    assert image.context_hash("cpu", BASE) != before


@pytest.mark.parametrize(
    "path",
    [
        "tests/test_new.py",
        "README.md",
        "images/eval/requirements.lock",
        "images/torch/requirements-cuda.lock",
        "espalier/__pycache__/store.cpython-311.pyc",
    ],
)
def test_nothing_else_changes_the_context(image: Image, path: str) -> None:
    before = image.context_hash("cpu", BASE)
    file = image.folder.parents[1] / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("changed==1\n")
    assert image.context_hash("cpu", BASE) == before


def test_code_alone_leaves_the_environment_as_it_is(image: Image) -> None:
    before = image.environment_hash("cpu", BASE)
    (image.folder.parents[1] / "espalier" / "new.py").write_text("")
    assert image.environment_hash("cpu", BASE) == before


def test_base_and_accelerator_are_part_of_the_context(image: Image) -> None:
    hashes = {
        image.context_hash("cpu", BASE),
        image.context_hash("cuda", BASE),
        image.context_hash("cpu", "other"),
    }
    assert len(hashes) == 3


def test_a_comment_in_a_lock_changes_nothing(image: Image) -> None:
    before = image.lock_hash("cpu")
    lock = image.folder / "requirements.lock"
    lock.write_text(f"# written again\n{lock.read_text()}    # via nobody\n")
    assert image.lock_hash("cpu") == before
