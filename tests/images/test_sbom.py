"""What is in an image, as a list: packages that its locks pin, and Debian's of a built one."""

import json
from pathlib import Path
from typing import Any

import pytest

from espalier.contract.image import locked_names
from espalier.errors import EnvironmentFailure
from espalier.host.images import Engine, known_images, load_image
from espalier.host.images.engine import LOCK_LABEL
from espalier.host.images.sbom import sbom

CLIENT = """#!/bin/sh
case "$*" in
  *"image inspect"*)
    echo '[{"Id": "sha256:abc", "Size": 1, "Config": {"Labels": {'"$LABELS"'}}}]' ;;
  *dpkg-query*) [ -n "$BROKEN" ] && { echo "no such program" >&2; exit 127; }
    printf 'libc6 2.36-9+deb12u10 amd64\\nca-certificates 20230311 all\\n' ;;
esac
"""


def parts(text: str) -> dict[str, dict[str, Any]]:
    return {part["purl"]: part for part in json.loads(text)["components"]}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    client = tmp_path / "docker"
    client.write_text(CLIENT)
    client.chmod(0o755)
    return Engine("docker", str(client), (), (), ())


@pytest.mark.parametrize("name", known_images())
def test_what_the_locks_pin_is_listed_with_its_hashes(name: str) -> None:
    image = load_image(name)
    for accel in image.accelerators:
        text = sbom(image, accel, None)
        listed = parts(text)
        pinned = [each for lock in image.lock_files(accel) for each in locked_names(lock)]
        assert {part["name"] for part in listed.values()} == set(pinned)
        hashes = "".join(lock.read_text() for lock in image.lock_files(accel))
        for part in listed.values():
            found = [each["value"] for each in part["properties"]]
            assert found
            assert all(f"--hash=sha256:{value}" in hashes for value in found)
        assert text == sbom(image, accel, None)
        assert json.loads(text)["specVersion"] == "1.6"


def test_debians_packages_are_those_of_the_built_image(engine: Engine) -> None:
    listed = parts(sbom(load_image("wanda"), "cpu", engine))
    assert listed["pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64"]["version"].startswith("2.36")
    assert "pkg:deb/debian/ca-certificates@20230311?arch=all" in listed


def test_an_image_of_other_locks_is_not_described_by_these(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = load_image("wanda")
    monkeypatch.setenv("LABELS", f'"{LOCK_LABEL}": "{image.lock_hash("cpu")}"')
    sbom(image, "cpu", engine)
    monkeypatch.setenv("LABELS", f'"{LOCK_LABEL}": "another"')
    with pytest.raises(EnvironmentFailure, match=r"built from other locks; make image-wanda"):
        sbom(image, "cpu", engine)


def test_an_image_that_does_not_say_what_it_holds(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKEN", "1")
    with pytest.raises(EnvironmentFailure, match="does not say what it holds: no such program"):
        sbom(load_image("wanda"), "cpu", engine)
