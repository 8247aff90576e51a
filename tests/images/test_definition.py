"""The hashes by which an image is known to be fresh."""

import shutil
from pathlib import Path

import pytest

from espalier.contract.paths import ROOT
from espalier.errors import InputError
from espalier.host.images.definition import (
    CODE,
    IMAGES,
    Image,
    images_for,
    known_images,
    load_image,
)

BASE = "python:3.11@sha256:0"


def copied(name: str, tmp_path: Path) -> Image:
    """An image in a copy of what goes into it."""
    shutil.copytree(IMAGES, tmp_path / "images")
    for part in CODE:
        source = ROOT / part
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, tmp_path / part)
    return load_image(name, tmp_path / "images")


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return copied("wanda", tmp_path)


@pytest.fixture
def alone(tmp_path: Path) -> Image:
    return copied("maxtext", tmp_path)


def test_the_shared_image_is_built_first() -> None:
    assert known_images()[0] == "torch"
    assert {"wanda", "eval", "export", "fsdp", "maxtext", "minitron"} <= set(known_images())
    assert not {"host", "dev"} & set(known_images())


def test_unknown_names_are_told_the_known_ones() -> None:
    with pytest.raises(InputError, match="no image wander; known images: torch, eval, export, f"):
        load_image("wander")


def test_an_image_is_built_on_what_its_dockerfile_names() -> None:
    on_base = [name for name in known_images() if not load_image(name).parent]
    assert on_base == ["torch", "maxtext"]
    assert load_image("wanda").bottom == load_image("torch")
    assert load_image("maxtext").bottom == load_image("maxtext")


def test_python_and_accelerators_are_those_of_the_image_at_the_bottom() -> None:
    for name in known_images():
        image = load_image(name)
        expected = ("3.13", ("cpu", "tpu")) if name == "maxtext" else ("3.11", ("cpu", "cuda"))
        assert (image.python, image.accelerators) == expected
    assert images_for("tpu") == ["maxtext"]
    assert images_for("cuda") == [name for name in known_images() if name != "maxtext"]
    assert images_for("cpu") == known_images()


@pytest.mark.parametrize(
    ("name", "accel", "known"),
    [
        ("wanda", "tpu", "cpu or cuda"),
        ("torch", "tpu", "cpu or cuda"),
        ("maxtext", "cuda", "cpu or tpu"),
    ],
)
def test_an_accelerator_without_a_variant_is_refused(name: str, accel: str, known: str) -> None:
    told = f"^ACCEL={accel} has no image {name}: give {known}.$"
    with pytest.raises(InputError, match=told):
        load_image(name).lock_hash(accel)
    with pytest.raises(InputError, match=told):
        load_image(name).context_hash(accel, BASE)


@pytest.mark.parametrize(
    "path",
    [
        "images/wanda/requirements.lock",
        "images/torch/requirements-cpu.lock",
        "images/torch/installer.lock",
        "images/torch/Dockerfile",
        "images/Dockerfile",
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


@pytest.mark.parametrize(
    "path",
    [
        "images/maxtext/requirements-cpu.lock",
        "images/maxtext/Dockerfile",
        "images/maxtext/imports.txt",
        "images/torch/installer.lock",
        "images/torch/check.py",
        "espalier/__init__.py",
    ],
)
def test_what_an_image_takes_from_another_changes_its_context(alone: Image, path: str) -> None:
    before = alone.context_hash("cpu", BASE)
    file = alone.folder.parents[1] / path
    file.write_text(file.read_text() + "\nchanged==1\n")
    assert alone.context_hash("cpu", BASE) != before


@pytest.mark.parametrize(
    "path",
    [
        "images/maxtext/requirements-tpu.lock",
        "images/maxtext/requirements.in",
        "images/torch/requirements-cpu.lock",
        "images/torch/Dockerfile",
    ],
)
def test_what_it_does_not_take_leaves_its_context_as_it_is(alone: Image, path: str) -> None:
    before = alone.context_hash("cpu", BASE)
    (alone.folder.parents[1] / path).write_text("changed==1\n")
    assert alone.context_hash("cpu", BASE) == before


@pytest.mark.parametrize(
    ("name", "text", "changes"),
    [
        ("apt.txt", "g++  # compiles\n", True),
        ("apt.txt", "# nothing\n", False),
        ("requirements.in", "# Another description.\n", True),
        ("Dockerfile", "ARG PARENT=espalier/torch:cpu\n", True),
        ("README.md", "", False),
    ],
)
def test_what_fills_in_the_shared_dockerfile_is_part_of_the_context(
    image: Image, name: str, text: str, changes: bool
) -> None:
    before = image.context_hash("cpu", BASE)
    (image.folder / name).write_text(text)
    assert (image.context_hash("cpu", BASE) != before) is changes


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
