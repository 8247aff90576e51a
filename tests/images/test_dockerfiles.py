"""What every Dockerfile keeps to, so that one build runs in docker, podman and apptainer."""

import re
from pathlib import Path

import pytest

from espalier.images.building import base_image
from espalier.images.definition import IMAGES, ROOT

DOCKERFILES = sorted(IMAGES.glob("*/Dockerfile"))
each = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)


def test_the_base_is_named_by_tag_and_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BASE_IMAGE", raising=False)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", base_image(IMAGES))
    monkeypatch.setenv("BASE_IMAGE", "mine:1")
    assert base_image(IMAGES) == "mine:1"


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


@each
def test_it_installs_by_hash_only(dockerfile: Path) -> None:
    commands = dockerfile.read_text().replace("\\\n", " ")
    installs = re.findall(r"pip (?:install|sync)\b[^&|;\n]*", commands)
    assert installs
    assert all("--require-hashes" in install for install in installs)


@each
def test_it_lists_its_hard_imports(dockerfile: Path) -> None:
    name = dockerfile.parent.name
    assert dockerfile.with_name("imports.txt").read_text().split()
    assert f"COPY images/{name}/imports.txt /opt/image/imports/{name}.txt" in dockerfile.read_text()


def test_only_what_images_are_made_of_goes_to_the_engine() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert allowed == {"espalier", "methods", "eval", "training", "models.toml", "images"}
