"""What every Dockerfile keeps to, so that one build runs in docker, podman and apptainer."""

import re
from pathlib import Path

import pytest

from espalier.contract.paths import ROOT
from espalier.host.images.base import base_image
from espalier.host.images.definition import IMAGES, known_images, load_image

DOCKERFILES = sorted([IMAGES / "Dockerfile", *IMAGES.glob("*/Dockerfile")])
each = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
each_image = pytest.mark.parametrize("name", known_images())


def test_a_base_is_named_by_its_whole_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """And by a digest: a tag is given to another image whenever that is built again."""
    for variable in ("BASE_IMAGE", "BASE_IMAGE_MAXTEXT"):
        monkeypatch.delenv(variable, raising=False)
    shared, alone = base_image(load_image("wanda")), base_image(load_image("maxtext"))
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", shared)
    assert re.fullmatch(r"python:3\.13\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", alone)
    assert shared.partition("@")[2] != alone.partition("@")[2]


def test_each_image_at_the_bottom_has_a_variable_for_its_base(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BASE_IMAGE", "mine:1")
    monkeypatch.setenv("BASE_IMAGE_MAXTEXT", "mine:2")
    bases = {name: base_image(load_image(name)) for name in ("torch", "wanda", "maxtext")}
    assert bases == {"torch": "mine:1", "wanda": "mine:1", "maxtext": "mine:2"}


def test_images_that_differ_in_their_lists_alone_share_a_dockerfile() -> None:
    own = [name for name in known_images() if load_image(name).arguments == {}]
    assert own == ["torch", "maxtext"]
    assert load_image("fsdp").arguments["APT"] == "g++"
    assert load_image("wanda").arguments == {
        "IMAGE": "wanda",
        "DESCRIPTION": "Pruning by Wanda, SparseGPT and magnitude, and the harness that their "
        "papers used",
        "APT": "",
        "OVERRIDDEN": "",
    }


@each_image
def test_its_environment_has_the_images_python(name: str) -> None:
    image = load_image(name)
    made = re.findall(r"uv venv --python (\S+) /opt/venv", image.dockerfile.read_text())
    assert made == ([] if image.parent else [image.python])
    assert f"python:{image.python}." in image.bottom.dockerfile.read_text()


@each_image
def test_it_has_the_labels_and_settings_of_the_others(name: str) -> None:
    """From the image at the bottom, or said by itself."""
    bottom = load_image(name).bottom.dockerfile.read_text()
    shared = (IMAGES / "torch" / "Dockerfile").read_text()
    labels = re.compile(r"\b(org\.[\w.]+)=")
    settings = re.compile(r"^(?:ENV)? +([A-Z_]+)=", re.MULTILINE)
    of_torch = {"TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"}
    own = load_image(name).dockerfile.read_text() + bottom
    assert set(labels.findall(own)) == set(labels.findall(shared))
    assert {*settings.findall(own)} >= {*settings.findall(shared)} - of_torch


@each
def test_no_image_is_taken_by_a_moving_name(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    assert ":latest" not in text
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        name = re.fullmatch(r"\$\{(\w+)\}", image)
        assert name, f"{image} is no build argument"
        assert re.search(r":\w+|\$\{BASE_IMAGE\}", arguments[name[1]])


@each
def test_it_keeps_to_what_every_builder_can_do(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    assert not text.startswith("# syntax=")
    assert not re.search(r"<<\s*['\"]?EOF|--link\b|^ENTRYPOINT|^VOLUME", text, re.MULTILINE)


@each
def test_it_ends_as_an_ordinary_user(dockerfile: Path) -> None:
    assert re.findall(r"^USER (.+)$", dockerfile.read_text(), re.MULTILINE)[-1] == "1000:1000"


@each_image
def test_it_lists_its_hard_imports(name: str) -> None:
    image = load_image(name)
    assert (image.folder / "imports.txt").read_text().split()
    text = image.dockerfile.read_text().replace("${IMAGE}", name)
    assert f"COPY images/{name}/imports.txt /opt/image/imports/{name}.txt" in text


@each_image
def test_its_check_imports_what_its_stages_record(name: str) -> None:
    """Manifests name the packages that the list of imports names."""
    image = load_image(name)
    listed = {word.partition(".")[0] for word in (image.folder / "imports.txt").read_text().split()}
    if "transformers" in image.packages("cpu"):
        assert {"transformers", "tokenizers", "safetensors"} <= listed


def test_only_what_images_are_made_of_goes_to_the_engine() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert allowed == {"espalier", "methods", "inputs", "eval", "training", "models.toml", "images"}
