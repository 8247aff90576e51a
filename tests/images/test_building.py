"""What is asked of an engine, seen by a stand-in for its client."""

import hashlib
import json
from pathlib import Path

import pytest

from espalier.errors import EnvironmentFailure, InputError
from espalier.host.images import build, build_all, building, engine, ensure_built, find_engine, save
from espalier.host.images.base import pinned_base
from espalier.host.images.definition import images_for, load_image
from espalier.host.images.engine import CONTEXT_LABEL, ENVIRONMENT_LABEL, LOCK_LABEL, SBOM_LABEL
from espalier.host.images.sbom import locked_list
from espalier.host.revision import code_revision

CLIENT = """#!/usr/bin/env python3
import json, os, sys
from pathlib import Path
state = Path(os.environ["FAKE_STATE"])
words = sys.argv[1:]
with (state / "calls").open("a") as calls:
    calls.write(json.dumps(words) + "\\n")
if "build" in words:
    if (state / "fails").exists():
        sys.exit((state / "fails").read_text())
    tag = words[words.index("--tag") + 1]
    labels = [words[i + 1] for i, word in enumerate(words) if word == "--label"]
    image = {"Id": "sha256:1", "Size": 7,
             "RepoDigests": [], "Config": {"Labels": dict(label.split("=", 1) for label in labels)}}
    (state / tag.replace("/", "+")).write_text(json.dumps([image]))
elif "buildx" in words:
    sys.exit(print((state / "buildx").read_text()) if (state / "buildx").exists() else 1)
elif "inspect" in words:
    held = state / words[-1].replace("/", "+")
    if not held.exists():
        sys.exit(1)
    print(held.read_text())
elif "run" in words:
    if (state / "broken").exists():
        sys.exit("ModuleNotFoundError: No module named 'torch'")
    if "dpkg-query" in words:
        sys.exit(print("libc6 2.36-9 amd64") if not (state / "no-debian").exists() else "none here")
    print(json.dumps({"python": "3.11.2", "packages": {}, "imports": []}))
elif "pull" in words:
    image = {"Id": "sha256:2", "Size": 5, "RepoDigests": [f"{words[-1].split(':')[0]}@sha256:3"]}
    (state / words[-1].replace("/", "+")).write_text(json.dumps([image]))
elif "info" in words and (state / "info").exists():
    print((state / "info").read_text())
elif "save" in words:
    sys.stdout.write("archive")
"""

PACKAGE_SOURCES = ("CA_BUNDLE", "SSL_CERT_FILE", "WHEELS", "PIP_FIND_LINKS")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine that answers and keeps what it is told in this folder."""
    client = tmp_path / "client"
    client.write_text(CLIENT)
    client.chmod(0o755)
    monkeypatch.setattr(building, "RECORDS", tmp_path / "records")
    for name in (*PACKAGE_SOURCES, "DOCKER_RUN_FLAGS", "DOCKER_BUILD_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER", str(client))
    monkeypatch.setenv("DOCKER_FLAGS", "--context 'my engine'")
    monkeypatch.setenv("BASE_IMAGE", "base:1")
    monkeypatch.delenv("BASE_IMAGE_MAXTEXT", raising=False)
    state = tmp_path / "state"
    state.mkdir()
    monkeypatch.setenv("FAKE_STATE", str(state))
    return state


def answering() -> engine.Engine:
    found = find_engine("docker")
    assert found
    return found


def calls(state: Path, verb: str) -> list[list[str]]:
    lines = (state / "calls").read_text().splitlines()
    return [words for words in map(json.loads, lines) if verb in words]


def test_no_client_is_no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER", str(tmp_path / "absent"))
    assert find_engine("docker") is None


def test_a_client_without_an_engine_is_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER", "false")
    assert find_engine("docker") is None


def test_flags_go_before_the_command(state: Path) -> None:
    assert answering().flags == ("--context", "my engine")
    assert calls(state, "version") == [["--context", "my engine", "version"]]


def test_an_image_is_built_after_its_parent_and_only_once(state: Path) -> None:
    first = ensure_built("wanda", answering(), "cpu")
    assert first == engine.ImageReference("espalier/wanda:cpu", "sha256:1")
    files = [words[words.index("--file") + 1] for words in calls(state, "build")]
    assert [Path(file).parent.name for file in files] == ["torch", "images"]
    assert "IMAGE=wanda" in calls(state, "build")[1]
    assert "PARENT=espalier/torch:cpu" in calls(state, "build")[1]
    assert "BASE_IMAGE=base:1" in calls(state, "build")[0]
    assert ensure_built("wanda", answering(), "cpu") == first
    assert len(calls(state, "build")) == 2


def test_all_are_built_once_those_that_others_stand_on_first(state: Path) -> None:
    found = [image.reference for image in build_all(answering(), "cpu")]
    assert sorted(found) == sorted(f"espalier/{name}:cpu" for name in images_for("cpu"))
    assert found[:2] == ["espalier/torch:cpu", "espalier/maxtext:cpu"]
    tags = [words[words.index("--tag") + 1] for words in calls(state, "build")]
    assert sorted(tags) == sorted(found)
    children = [tags.index(tag) for tag in found[2:]]
    assert tags.index("espalier/torch:cpu") < min(children)
    assert [image.reference for image in build_all(answering(), "cpu")] == found
    assert len(calls(state, "build")) == len(found)


def test_an_image_that_cannot_be_built_ends_them_all(state: Path) -> None:
    (state / "fails").write_text("no space left on device")
    with pytest.raises(EnvironmentFailure, match=r"image torch .*: no space left on device"):
        list(build_all(answering(), "cpu"))


def test_another_base_makes_it_stale(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_built("torch", answering(), "cpu")
    monkeypatch.setenv("BASE_IMAGE", "base:2")
    ensure_built("torch", answering(), "cpu")
    assert len(calls(state, "build")) == 2


def test_an_image_on_its_own_base_is_built_without_another(
    state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torch-2.13.0+cpu.whl").touch()
    monkeypatch.setenv("WHEELS", str(tmp_path))
    monkeypatch.setenv("BASE_IMAGE_MAXTEXT", "newer:1")
    ensure_built("maxtext", answering(), "tpu")
    (only,) = calls(state, "build")
    assert Path(only[only.index("--file") + 1]).parent.name == "maxtext"
    assert {"BASE_IMAGE=newer:1", "ACCEL=tpu"} <= set(only)
    assert not [word for word in only if word.startswith(("PARENT=", "WHEELS_IMAGE="))]
    ensure_built("maxtext", answering(), "tpu")
    assert len(calls(state, "build")) == 1


def test_a_base_without_a_digest_is_pulled_to_record_it(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = "python:3.13.5-slim-bookworm"
    monkeypatch.setenv("BASE_IMAGE_MAXTEXT", base)
    ensure_built("maxtext", answering(), "cpu")
    assert [words[-1] for words in calls(state, "pull")] == [base]
    labels = json.loads((building.RECORDS / "maxtext-cpu.json").read_text())["labels"]
    assert labels["org.opencontainers.image.base.name"] == base
    assert labels["org.opencontainers.image.base.digest"] == "sha256:3"


def test_the_dockerfiles_own_base_is_recorded_with_its_digest(state: Path) -> None:
    ensure_built("maxtext", answering(), "cpu")
    name, _, digest = pinned_base(load_image("maxtext")).partition("@")
    labels = json.loads((building.RECORDS / "maxtext-cpu.json").read_text())["labels"]
    assert labels["org.opencontainers.image.base.name"] == name
    assert labels["org.opencontainers.image.base.digest"] == digest
    assert not calls(state, "pull")


def test_no_engine_is_asked_for_a_variant_that_there_is_not(state: Path) -> None:
    for name, accel in (("maxtext", "cuda"), ("wanda", "tpu")):
        with pytest.raises(InputError, match=f"ACCEL={accel} has no image {name}: give cpu or "):
            ensure_built(name, answering(), accel)
    assert not calls(state, "build")


def test_a_new_image_is_run_and_recorded(state: Path) -> None:
    ensure_built("torch", answering(), "cpu")
    record = json.loads((building.RECORDS / "torch-cpu.json").read_text())
    assert record["size"] == 7
    assert record["contents"]["python"] == "3.11.2"
    context = load_image("torch").context_hash("cpu", "base:1")
    assert record["labels"][CONTEXT_LABEL] == record["labels"][ENVIRONMENT_LABEL] == context
    run, asked = calls(state, "run")
    assert {"--read-only", "--cap-drop=ALL", "--network=none"} <= set(run)
    assert "dpkg-query" in asked
    build("torch", answering(), "cpu")
    assert len(calls(state, "run")) == 2  # the same packages need no second look


def test_its_labels_say_where_it_comes_from(state: Path) -> None:
    """And its list of contents lies beside the record, as its label says."""
    for _ in range(2):
        build("torch", answering(), "cpu", no_cache=True)
    first, second = (
        [words[i + 1] for i, word in enumerate(words) if word == "--label"]
        for words in calls(state, "build")
    )
    assert first == second  # the same files give the same labels
    labels = dict(label.split("=", 1) for label in first)
    image = load_image("torch")
    listed = locked_list(image, "cpu", "base:1")
    assert labels[SBOM_LABEL] == hashlib.sha256(listed.encode()).hexdigest()
    assert labels[LOCK_LABEL] == image.lock_hash("cpu")
    assert labels["org.opencontainers.image.revision"] == code_revision()
    assert labels["org.opencontainers.image.base.name"] == "base:1"
    assert "org.opencontainers.image.created" not in labels
    written = json.loads((building.RECORDS / "torch-cpu.cdx.json").read_text())
    names = {part["name"] for part in written["components"]}
    assert {"torch", "libc6"} <= names
    facts = {fact["name"]: fact["value"] for fact in written["metadata"]["component"]["properties"]}
    assert facts["espalier:sbom"] == labels[SBOM_LABEL]
    assert facts["espalier:digest"] == "sha256:1"


def test_another_base_than_debian_does_not_stop_an_image(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (state / "no-debian").touch()
    ensure_built("torch", answering(), "cpu")
    assert "its list is of Python's packages alone" in capsys.readouterr().err
    assert (building.RECORDS / "torch-cpu.cdx.json").is_file()


CONTAINERD = '[["driver-type","io.containerd.snapshotter.v1"]]'
DIGEST = f"sha256:{'5' * 64}"


SCANNED = f"--attest=type=sbom,generator=docker/buildkit-syft-scanner@{DIGEST}"
ATTESTED = {
    "no buildx": (None, CONTAINERD, "", []),
    "no place for them": ("buildx v0.20", '[["Backing Filesystem","extfs"]]', "", []),
    "no scanner": ("no registry", CONTAINERD, "", ["--provenance=mode=min"]),
    "both": (DIGEST, CONTAINERD, "", ["--provenance=mode=min", SCANNED]),
    "one's own": (DIGEST, CONTAINERD, "--sbom=false", ["--sbom=false"]),
}


@pytest.mark.parametrize("case", ATTESTED)
def test_buildx_keeps_provenance_where_there_is_a_place_for_it(
    case: str, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buildx, info, own, given = ATTESTED[case]
    monkeypatch.setenv("DOCKER_BUILD_FLAGS", own)
    (state / "info").write_text(info)
    if buildx:
        (state / "buildx").write_text(buildx)
    ensure_built("torch", answering(), "cpu")
    (words,) = calls(state, "build")
    kinds = ("--provenance", "--attest", "--sbom")
    assert [word for word in words if word.startswith(kinds)] == given


def test_an_image_that_does_not_work_is_said_so(state: Path) -> None:
    (state / "broken").touch()
    with pytest.raises(EnvironmentFailure, match="torch does not work: ModuleNotFoundError"):
        ensure_built("torch", answering(), "cpu")


def test_the_certificates_are_a_secret(
    state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "ca.crt"
    monkeypatch.setenv("CA_BUNDLE", str(bundle))
    with pytest.raises(InputError, match=r"CA_BUNDLE=.* is not a file"):
        ensure_built("torch", answering(), "cpu")
    bundle.write_text("certificate")
    ensure_built("torch", answering(), "cpu")
    assert f"id=ca,src={bundle}" in calls(state, "build")[-1]


def test_wheels_are_given_as_an_image(
    state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WHEELS", str(tmp_path))
    with pytest.raises(InputError, match="holds no torch"):
        ensure_built("torch", answering(), "cpu")
    (tmp_path / "torch-2.13.0+cpu.whl").touch()
    ensure_built("torch", answering(), "cpu")
    wheels, torch = calls(state, "build")
    assert wheels[-1] == str(tmp_path)
    assert f"WHEELS_IMAGE={wheels[wheels.index('--tag') + 1]}" in torch


def test_a_client_that_cannot_build_is_named(state: Path) -> None:
    (state / "fails").write_text("ERROR: BuildKit is enabled but the buildx component is missing")
    with pytest.raises(EnvironmentFailure, match=r"lacks buildx: .* DOCKER=<path>"):
        ensure_built("torch", answering(), "cpu")


def test_a_failed_build_gives_the_engines_last_word(state: Path) -> None:
    (state / "fails").write_text("no space left on device")
    with pytest.raises(EnvironmentFailure, match="docker says: no space left on device"):
        ensure_built("torch", answering(), "cpu")


def test_podman_takes_over_what_docker_built(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both stand-ins keep their images in one place here, so there is nothing left to load."""
    ensure_built("torch", answering(), "cpu")
    monkeypatch.setenv("PODMAN", str(state.parent / "client"))
    podman = find_engine("podman")
    assert podman
    assert build("torch", podman, "cpu").digest == "sha256:1"
    assert len(calls(state, "build")) == 1
    assert not calls(state, "load")


def test_an_archive_is_whole_or_absent(state: Path, tmp_path: Path) -> None:
    archive = save("torch", answering(), "cpu", tmp_path / "out" / "torch.tar")
    assert archive.read_text() == "archive"
    (tmp_path / "out" / "other.tar").mkdir()
    with pytest.raises(EnvironmentFailure, match=r"cannot be written: .* give another TO"):
        save("torch", answering(), "cpu", tmp_path / "out" / "other.tar")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["other.tar", "torch.tar"]
