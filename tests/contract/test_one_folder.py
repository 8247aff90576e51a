"""A method is one folder, and so is an image: shown on a copy of the project that gets one more."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from espalier.contract.discovery import methods
from espalier.contract.paths import ROOT
from espalier.host.images.lock import find_uv
from tests.contract.command import tree
from tests.images.test_building import CLIENT
from tests.tiny import tiny_llama

LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".espalier", "store", "__pycache__", ".*_cache")
PARAMETERS = '''

class DummyParameters(SparsityParameters):
    """Magnitude's, and one of its own."""

    salt: Annotated[int, Field(ge=3, le=7, description="what no other method has")] = 5


'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project whose host tool is this very Python."""
    copy = tmp_path_factory.mktemp("folders") / "project"
    shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
    python = copy / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    python.with_name("uv").symlink_to(find_uv())
    (copy / ".venv" / ".ready").touch()
    return copy


@pytest.fixture(scope="module")
def with_method(project: Path) -> Path:
    """The copy with `methods/dummy/`: magnitude under another name, with one more parameter."""
    folder = project / "methods" / "dummy"
    shutil.copytree(project / "methods" / "magnitude", folder, ignore=LEFT_OUT)
    for file in folder.glob("*.py"):
        file.write_text(file.read_text().replace("methods.magnitude", "methods.dummy"))
    spec = (folder / "spec.py").read_text()
    spec = spec.replace("from typing import Any\n", "from typing import Annotated, Any\n\n"
                        "from pydantic import Field\n")  # fmt: skip
    spec = spec.replace('name="magnitude"', 'name="dummy"')
    spec = spec.replace("parameters=SparsityParameters,", "parameters=DummyParameters,")
    (folder / "spec.py").write_text(spec.replace("\n\ndef ", f"{PARAMETERS}def ", 1))
    readme = (folder / "README.md").read_text()
    row = "| `PATTERN` |"
    (folder / "README.md").write_text(readme.replace(row, f"| `SALT` | 5 | |\n{row}", 1))
    return project


def run(project: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command in the copy, as from a user's shell."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MAKE", "MFLAGS"))}
    environment = {**kept, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1", **variables}
    return subprocess.run(
        words, cwd=project, env=environment, capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip


def make(project: Path, *words: str, **variables: str) -> str:
    done = run(project, "make", *words, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_method_is_pruned_with(with_method: Path, tmp_path: Path) -> None:
    model, store = tiny_llama(tmp_path / "tiny"), tmp_path / "store"
    words = (f"MODEL={model}", "SALT=4", "PATTERN=2:4", "SUITE=none", f"STORE={store}")
    out = make(with_method, "prune-dummy", *words, "RUNTIME=inside", OMP_NUM_THREADS="1")
    published = store / "checkpoints" / "tiny-dummy-2of4"
    assert out.splitlines()[-1] == str(published)
    manifest = json.loads((published / "manifest.json").read_text())
    assert (manifest["stage"], manifest["parameters"]["salt"]) == ("dummy", 4)
    assert manifest["environment"]["packages"].keys() >= {"torch", "transformers", "safetensors"}
    refused = run(with_method, "make", "prune-dummy", f"MODEL={model}", "SALT=9", f"STORE={store}")
    assert "espalier: SALT=9 should be less than or equal to 7." in refused.stderr


def test_it_is_listed_and_explained(with_method: Path) -> None:
    _, _, listed = make(with_method).partition(" methods: ")
    listed, _, _ = listed.partition(" help-<name>")
    assert listed.split() == sorted({*methods(), "dummy"})
    (row,) = [line for line in make(with_method, "help-dummy").splitlines() if "SALT" in line]
    assert " ".join(row.split()) == "SALT 5 ≥ 3, ≤ 7 what no other method has"


def test_what_lists_methods_is_known_to_be_due_and_written_by_one_command(
    with_method: Path,
) -> None:
    before = tree(with_method)
    python = str(with_method / ".venv" / "bin" / "python")
    due = run(with_method, python, "-m", "espalier", "listings", "--check")
    assert due.returncode == 2
    assert due.stderr.splitlines()[-1].endswith(
        "docker-compose.yml and docker-compose.gpu.yml and README.md do not list what methods/ "
        "holds; run make listings."
    )
    lists = ["docker-compose.yml", "docker-compose.gpu.yml", "README.md"]
    assert make(with_method, "listings").split() == lists
    after = tree(with_method)
    assert [file for file in after if after[file] != before.get(file)] == sorted(lists)

    compose = yaml.safe_load((with_method / "docker-compose.yml").read_text())
    service, evaluation = compose["services"]["dummy"], compose["services"]["eval-dummy"]
    assert service["command"] == ["prune-dummy", "SUITE=none"]
    assert service["image"] == "espalier/wanda:${ACCEL:-cpu}"
    assert service["environment"]["SALT"] is None  # passed on where it is set
    assert evaluation["command"] == ["eval", "METHOD=dummy"]
    assert "dummy" in compose["services"]["train-gpu"]["depends_on"]
    # The project's own tests, there, of its lists, its README's tables and its services.
    tests = ("tests/unit/test_listings.py", "tests/contract/test_compose.py")
    options = ("-q", "-k", "dummy or current or own_rows", "-p", "no:cacheprovider")
    tested = run(with_method, sys.executable, "-m", "pytest", *tests, *options)
    assert tested.returncode == 0, tested.stdout


@pytest.fixture(scope="module")
def with_image(project: Path) -> Path:
    """The copy with `images/dummy-image/`: export's list, and one of Debian's packages."""
    source, folder = project / "images" / "export", project / "images" / "dummy-image"
    folder.mkdir()
    shutil.copy(source / "imports.txt", folder)
    shutil.copy(source / "requirements.lock", folder)
    listed = (source / "requirements.in").read_text().partition("\n")[2]
    (folder / "requirements.in").write_text(f"# A dummy.\n{listed}")
    (folder / "apt.txt").write_text("jq  # to look at JSON\n")
    return project


def test_an_image_is_built_by_its_folder_alone(with_image: Path, tmp_path: Path) -> None:
    client = tmp_path / "client"
    client.write_text(CLIENT)
    client.chmod(0o755)
    variables = {"DOCKER": str(client), "FAKE_STATE": str(tmp_path), "BASE_IMAGE": "base:1"}
    out = make(with_image, "image-dummy-image", "RUNTIME=docker", **variables)
    assert out.split() == ["espalier/dummy-image:cpu", "sha256:1"]
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    build = [words for words in calls if "build" in words][-1]
    assert {"IMAGE=dummy-image", "DESCRIPTION=A dummy", "APT=jq"} <= set(build)
    assert build[build.index("--file") + 1] == str(with_image / "images" / "Dockerfile")


def test_its_lock_follows_from_its_folder_alone(with_image: Path) -> None:
    """Needs the package index, as installing anything does."""
    lock = with_image / "images" / "dummy-image" / "requirements.lock"
    before = lock.read_text()
    done = run(with_image, "make", "lock-dummy-image")
    if "could not be compiled" in done.stderr:
        pytest.skip(f"no package index: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert "make lock-dummy-image" in lock.read_text()
    pins = [[w for w in text.split() if "==" in w] for text in (before, lock.read_text())]
    assert pins[0] == pins[1]


def test_it_is_a_marker_and_its_tests_run_with_its_packages(with_image: Path) -> None:
    (with_image / "tests" / "unit" / "test_dummy.py").write_text(
        "import pytest\n\npytestmark = pytest.mark.dummy_image\n\n\ndef test_it() -> None: ...\n"
    )
    program = "import tests.run as r; print(r.images_with_tests(), r.WITHOUT_MODELS)"
    said = run(with_image, sys.executable, "-c", program)
    assert said.stdout.count("dummy-image") == 2, said.stdout + said.stderr
    words = ("tests/unit/test_dummy.py", "-m", "dummy_image", "-p", "no:cacheprovider")
    tested = run(with_image, sys.executable, "-m", "pytest", *words)
    assert tested.returncode == 0, tested.stdout
