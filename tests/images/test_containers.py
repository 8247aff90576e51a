"""The images as they were built, looked at from outside and from inside, in every engine."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from espalier.host.images import (
    Engine,
    ImageReference,
    ensure_built,
    find_engine,
    known_images,
    save,
)
from espalier.host.images.building import ANY_UID, CONFINED
from espalier.host.images.definition import load_image
from tests.images.test_locks import pins

pytestmark = [pytest.mark.containers, pytest.mark.slow]

CHILDREN = [name for name in known_images() if load_image(name).parent]
WITH_CODE = [name for name in known_images() if name != "torch"]
WITH_MODELS = [name for name in CHILDREN if "transformers" in load_image(name).packages("cpu")]
TINY_MODELS = Path(__file__).with_name("tiny_models.py")


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> Engine:
    found = find_engine(request.param)
    if not found:
        pytest.skip(f"no {request.param} engine answers")
    return found


@pytest.fixture(params=known_images())
def image(request: pytest.FixtureRequest, engine: Engine) -> ImageReference:
    return ensure_built(request.param, engine, "cpu")


def in_image(engine: Engine, name: str, *command: str, stdin: str = "") -> str:
    """What a command prints, run as an unknown user who may do nothing but write to /tmp."""
    reference = ensure_built(name, engine, "cpu").reference
    flags = ("run", "--interactive", *CONFINED, *ANY_UID, *engine.run_flags, reference)
    done = subprocess.run(
        engine.command(*flags, *command), check=False, capture_output=True, text=True, input=stdin
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def layers(engine: Engine, name: str) -> list[str]:
    reference = ensure_built(name, engine, "cpu").reference
    done = subprocess.run(
        engine.command("image", "inspect", reference), check=True, capture_output=True, text=True
    )
    layers: list[str] = json.loads(done.stdout)[0]["RootFS"]["Layers"]
    return layers


@pytest.mark.parametrize("name", CHILDREN)
def test_torch_is_one_shared_layer(engine: Engine, name: str) -> None:
    shared = layers(engine, "torch")
    assert layers(engine, name)[: len(shared)] == shared


def test_a_fresh_image_is_not_built_again(engine: Engine, image: ImageReference) -> None:
    name = image.reference.partition("/")[2].partition(":")[0]
    assert ensure_built(name, engine, "cpu") == image
    assert image.digest.startswith("sha256:")


def test_labels_say_what_it_is(engine: Engine, image: ImageReference) -> None:
    held = engine.inspect(image.reference)
    assert held
    labels = held.labels
    name = labels["org.espalier.image"]
    assert image.reference == f"espalier/{name}:cpu"
    assert labels["org.espalier.contract"] == "1"
    assert labels["org.espalier.accel"] == "cpu"
    assert labels["org.espalier.lock"] == load_image(name).lock_hash("cpu")
    opencontainers = {"title", "description", "licenses", "version", "base.name"}
    assert {f"org.opencontainers.image.{key}" for key in opencontainers} <= set(labels)


@pytest.mark.parametrize("name", known_images())
def test_its_check_passes_for_any_user(engine: Engine, name: str) -> None:
    """Hard imports and `pip check`, on a read-only root without network or capabilities."""
    contents = json.loads(in_image(engine, name).splitlines()[-1])
    image = load_image(name)
    assert contents["python"].startswith(f"{image.python}.")
    locked = dict(pin for lock in image.lock_files("cpu") for pin in pins(lock).items())
    assert locked.items() <= contents["packages"].items()
    assert set((image.folder / "imports.txt").read_text().split()) <= set(contents["imports"])


@pytest.mark.parametrize("name", WITH_MODELS)
def test_llama_and_qwen3_work(engine: Engine, name: str) -> None:
    out = in_image(engine, name, "python", "-", stdin=TINY_MODELS.read_text())
    qwen3 = "transformers.models.qwen3." in (load_image(name).folder / "imports.txt").read_text()
    assert out.split() == ["LlamaForCausalLM", *["Qwen3ForCausalLM"] * qwen3]


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_projects_code_is_there_and_compiled(engine: Engine, name: str) -> None:
    program = "import espalier.errors as e; print(e.__file__); print(e.__cached__)"
    file, cached = in_image(engine, name, "python", "-c", program).split()
    assert file == "/opt/espalier/espalier/errors.py"
    in_image(engine, name, "test", "-r", cached)


@pytest.mark.parametrize("name", ["torch", "maxtext"])
def test_what_schedulers_and_libraries_ask_for_is_there(engine: Engine, name: str) -> None:
    script = "ps >/dev/null && touch /tmp/x && python -c 'import getpass; print(getpass.getuser())'"
    assert in_image(engine, name, "bash", "-c", script).strip() == "stage"


def test_jax_computes_on_the_cpu_without_torch(engine: Engine) -> None:
    program = "import importlib.util as i, jax, jax.numpy as np, espalier.run_stage; "
    program += "print(jax.default_backend(), (np.eye(3) * 2).sum(), i.find_spec('torch'))"
    out = in_image(engine, "maxtext", "python", "-c", program)
    assert out.split() == ["cpu", "6.0", "None"]


def test_nothing_but_tmp_is_writable(engine: Engine) -> None:
    attempt = "touch $folder/x 2>/dev/null && echo $folder"
    script = f"for folder in / /opt /opt/venv /run /home; do {attempt}; done; true"
    assert in_image(engine, "wanda", "bash", "-c", script) == ""


@pytest.mark.parametrize("name", known_images())
def test_no_certificate_of_the_builder_stays(engine: Engine, name: str) -> None:
    script = "ls -A /run/secrets /wheels 2>/dev/null | grep -v ':$' | grep . || echo nothing"
    assert in_image(engine, name, "bash", "-c", script).strip() == "nothing"
    reference = ensure_built(name, engine, "cpu").reference
    done = subprocess.run(
        engine.command("history", "--no-trunc", reference),
        check=True,
        capture_output=True,
        text=True,
    )
    for variable in ("CA_BUNDLE", "WHEELS"):
        if value := os.environ.get(variable):
            assert value not in done.stdout


def test_an_archive_loads(engine: Engine, tmp_path: Path) -> None:
    archive = save("torch", engine, "cpu", tmp_path / "torch.tar")
    assert archive.stat().st_size > 100_000_000
    done = subprocess.run(
        engine.command("load", "--input", str(archive)), check=False, capture_output=True, text=True
    )
    assert "espalier/torch:cpu" in done.stdout, done.stderr
