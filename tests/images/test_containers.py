"""The images as they were built, looked at from outside and from inside.

Each is started twice: to say all that is in it (inside.py), and to run the project's code. What
is in it need not be said again while only our code changes (green.py). podman takes over docker's
images, and what is in those does not depend on who runs them: one is run there, under podman's own
ways to shut a container in; the others too with SLOW=1.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from espalier.host.images import Engine, Image, ensure_built, find_engine, known_images, save
from espalier.host.images.definition import load_image
from espalier.host.images.engine import (
    ANY_UID,
    CONFINED,
    ENVIRONMENT_LABEL,
    LOCK_LABEL,
    SBOM_LABEL,
    HeldImage,
)
from tests import green
from tests.images.test_locks import pins

pytestmark = [pytest.mark.containers, pytest.mark.slow]

IN_PODMAN = "wanda"
INSIDE = Path(__file__).with_name("inside.py")
CODE = """
import espalier.errors, espalier.run_stage, json, os
file, cached = espalier.errors.__file__, espalier.errors.__cached__
print(json.dumps([file, os.access(cached, os.R_OK)]))
"""


class Built(NamedTuple):
    """An image in an engine."""

    engine: Engine
    image: Image
    held: HeldImage

    @property
    def reference(self) -> str:
        return self.image.reference("cpu")

    def layers(self) -> list[str]:
        (found,) = json.loads(self.ask("image", "inspect", self.reference))
        layers: list[str] = found["RootFS"]["Layers"]
        return layers

    def ask(self, *words: str, stdin: str = "") -> str:
        """What the engine prints."""
        done = subprocess.run(
            self.engine.command(*words), check=False, capture_output=True, text=True, input=stdin
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, program: str) -> Any:
        """What a program prints as JSON, run by a user who may do nothing but write to /tmp."""
        flags = ("run", "--interactive", *CONFINED, *ANY_UID, *self.engine.run_flags)
        out = self.ask(*flags, self.reference, "python", "-", stdin=program)
        return json.loads(out.splitlines()[-1])


def built(engine: str, name: str) -> Built:
    found = find_engine(engine)
    if not found:
        pytest.skip(f"no {engine} engine answers")
    held = found.inspect(ensure_built(name, found, "cpu").reference)
    assert held
    return Built(found, load_image(name), held)


def families(image: Image, imports: set[str]) -> list[str]:
    """Those that a tiny model of has to go through all a stage does."""
    if not {"torch", "transformers"} <= image.packages("cpu"):
        return []
    qwen3 = any(name.startswith("transformers.models.qwen3.") for name in imports)
    return ["Llama", *["Qwen3"] * qwen3]


def cases(names: list[str]) -> list[Any]:
    rare = {name: [pytest.mark.exhaustive] for name in names if name != IN_PODMAN}
    podmans = [pytest.param("podman", name, marks=rare.get(name, ())) for name in names]
    return [*(("docker", name) for name in names), *podmans]


WITH_CODE = [name for name in known_images() if name != "torch"]
each = pytest.mark.parametrize(("engine", "name"), cases(known_images()))


@each
def test_its_labels_say_what_it_is(engine: str, name: str) -> None:
    case = built(engine, name)
    labels = case.held.labels
    assert case.held.digest.startswith("sha256:")
    assert labels["org.espalier.image"] == name
    assert labels["org.espalier.contract"] == "1"
    assert labels["org.espalier.accel"] == "cpu"
    assert labels[LOCK_LABEL] == case.image.lock_hash("cpu")
    assert re.fullmatch(r"[0-9a-f]{64}", labels[SBOM_LABEL])  # as the list was when it was built
    opencontainers = {"title", "description", "licenses", "version", "revision", "base.name"}
    assert {f"org.opencontainers.image.{key}" for key in opencontainers} <= set(labels)


@each
def test_a_fresh_image_is_not_built_again(engine: str, name: str) -> None:
    case = built(engine, name)
    assert ensure_built(name, case.engine, "cpu").digest == case.held.digest


@pytest.mark.parametrize("name", [name for name in known_images() if load_image(name).parent])
def test_the_parent_is_shared_layers(name: str) -> None:
    parent = load_image(name).parent
    assert parent
    shared = built("docker", parent.name).layers()
    assert built("docker", name).layers()[: len(shared)] == shared


def test_podman_s_image_is_docker_s() -> None:
    docker, podman = (built(engine, IN_PODMAN) for engine in ("docker", "podman"))
    assert podman.held.digest == docker.held.digest
    assert podman.layers() == docker.layers()


@each
def test_no_certificate_of_the_builder_is_in_its_history(engine: str, name: str) -> None:
    case = built(engine, name)
    history = case.ask("history", "--no-trunc", case.reference)
    for variable in ("CA_BUNDLE", "WHEELS"):
        if value := os.environ.get(variable):
            assert value not in history


@each
def test_what_is_in_it(engine: str, name: str) -> None:
    """As an unknown user, on a read-only root, without network and capabilities."""
    case = built(engine, name)
    environment = case.held.labels[ENVIRONMENT_LABEL]
    checks = green.tracked("tests/images/inside.py", "tests/images/test_containers.py")
    state = green.state(checks, environment, case.ask("version"))
    if green.recorded(f"{engine}-{name}", state):
        pytest.skip(f"the same packages passed before; {green.INSTEAD}")
    report = case.run(INSIDE.read_text())
    contents = report["contents"]
    assert contents["python"].startswith(f"{case.image.python}.")
    locked = dict(pin for lock in case.image.lock_files("cpu") for pin in pins(lock).items())
    assert locked.items() <= contents["packages"].items()
    imports = set((case.image.folder / "imports.txt").read_text().split())
    assert imports <= set(contents["imports"])
    assert report["families"] == families(case.image, imports)
    assert report["jax"] == (["cpu", 6.0] if "jax" in locked else [])
    assert report["torch"] == ("torch" in locked)
    assert (report["user"], report["ps"]) == ("stage", 0)
    assert report["writable"] == ["/tmp"]
    assert report["left"] == []
    green.record(f"{engine}-{name}", state)


@pytest.mark.parametrize(("engine", "name"), cases(WITH_CODE))
def test_the_project_s_code_is_there_and_compiled(engine: str, name: str) -> None:
    file, compiled = built(engine, name).run(CODE)
    assert file == "/opt/espalier/espalier/errors.py"
    assert compiled


@pytest.mark.exhaustive
@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_an_archive_loads(engine: str, tmp_path: Path) -> None:
    case = built(engine, "torch")
    archive = save("torch", case.engine, "cpu", tmp_path / "torch.tar")
    assert archive.stat().st_size > 100_000_000
    assert "espalier/torch:cpu" in case.ask("load", "--input", str(archive))
