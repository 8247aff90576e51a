"""Builds images when they are missing or stale, and runs each new one to see what it holds."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from espalier.contract.files import write_text
from espalier.contract.image import SHARED, digest
from espalier.contract.json_text import to_json
from espalier.contract.paths import ROOT
from espalier.errors import EnvironmentFailure, without_secrets
from espalier.host.images.base import base_image, base_variable
from espalier.host.images.definition import Image, images_for, load_image
from espalier.host.images.engine import (
    ANY_UID,
    CONFINED,
    CONTEXT_LABEL,
    ENVIRONMENT_LABEL,
    Engine,
    ImageReference,
    find_engine,
)
from espalier.host.images.lock import ca_bundle, wheels_folder
from espalier.host.images.provenance import attestations, labels_of
from espalier.host.secrets import by_name

RECORDS = ROOT / ".espalier" / "images"
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def ensure_built(name: str, engine: Engine, accel: str) -> ImageReference:
    """The image as its files on this machine say; built first when it is missing or stale."""
    image = load_image(name)
    return _held_fresh(image, engine, accel) or build(name, engine, accel)


def build(name: str, engine: Engine, accel: str, *, no_cache: bool = False) -> ImageReference:
    """Build the image, its parent before it, and run its checks where its packages are new.

    What is fresh already is built again with no_cache only.

    Raises:
        EnvironmentFailure: the build or a check failed.
    """
    image = load_image(name)
    image.require(accel)  # before anything is started
    RECORDS.mkdir(parents=True, exist_ok=True)
    with FileLock(RECORDS / f"{name}-{accel}.lock"):
        fresh = not no_cache and _held_fresh(image, engine, accel)  # perhaps since a moment ago
        if not fresh and not _load_from_docker(image, engine, accel, no_cache):
            if image.parent:
                ensure_built(image.parent.name, engine, accel)
            _build(image, engine, accel, no_cache)
        return _check(image, engine, accel)


def build_all(engine: Engine, accel: str) -> Iterator[ImageReference]:
    """Build every image that there is for an accelerator, two at once.

    One downloads and unpacks while the other compiles. Those that others are built on go first.

    Raises:
        EnvironmentFailure: a build or a check failed.
    """
    names = sorted(images_for(accel), key=lambda name: load_image(name).parent is not None)
    with ThreadPoolExecutor(max_workers=2) as builders:
        yield from builders.map(lambda name: build(name, engine, accel), names)


def _held_fresh(image: Image, engine: Engine, accel: str) -> ImageReference | None:
    held = engine.inspect(image.reference(accel))
    context = image.context_hash(accel, base_image(image, held))
    if held and held.labels.get(CONTEXT_LABEL) == context:
        return ImageReference(image.reference(accel), held.digest)
    return None


def _build(image: Image, engine: Engine, accel: str, no_cache: bool) -> None:
    words = ["build", *_own_flags(engine)[0], "--tag", image.reference(accel)]
    words += ["--file", str(image.dockerfile)]
    if engine.name == "docker":
        words.append("--progress=plain")
    if no_cache:
        words.append("--no-cache")
    if bundle := ca_bundle():
        words += ["--secret", f"id=ca,src={bundle}"]
    for name, value in image.arguments.items():
        words += ["--build-arg", f"{name}={value}"]
    if image.parent:
        words += ["--build-arg", f"PARENT={image.parent.reference(accel)}"]
    else:
        base = base_image(image, engine.inspect(image.reference(accel)))
        _pull_unless_held(base, engine)
        words += ["--build-arg", f"ACCEL={accel}", "--build-arg", f"BASE_IMAGE={base}"]
        if image.name == SHARED and accel == "cpu" and (wheels := wheels_folder()):
            words += ["--build-arg", f"WHEELS_IMAGE={_wheels_image(engine, wheels)}"]
    for proxy in PROXIES:  # predefined arguments: they stay in no layer and no history
        if os.environ.get(proxy):
            words += ["--build-arg", proxy]
    words += attestations(engine)
    for label, value in labels_of(image, engine, accel).items():
        words += ["--label", f"{label}={value}"]
    _run_build([*words, str(ROOT)], engine, f"image {image.name}", base_variable(image))


def _pull_unless_held(base: str, engine: Engine) -> None:
    """A build alone does not tell the digest behind a tag; if this fails, the build says why."""
    if "@" not in base and not engine.inspect(base):
        subprocess.run(engine.command("pull", base), check=False, capture_output=True)


def _wheels_image(engine: Engine, wheels: Path) -> str:
    """An image that holds the folder's torch, for the build to mount; it lands in no layer."""
    found = sorted(wheels.glob("torch-*.whl"))
    state = digest(f"{path.name} {path.stat().st_size}".encode() for path in found)
    reference = f"espalier/wheels:{state[:12]}"
    if not engine.inspect(reference):
        with tempfile.TemporaryDirectory() as scratch:
            dockerfile = Path(scratch) / "Dockerfile"
            dockerfile.write_text("FROM scratch\nCOPY torch-*.whl /\n")
            words = ["build", *_own_flags(engine)[0], "--tag", reference, "--file", str(dockerfile)]
            what = "the image with torch's wheel"
            _run_build([*words, str(wheels)], engine, what, "BASE_IMAGE")
    return reference


def _own_flags(engine: Engine) -> tuple[list[str], dict[str, str]]:
    """Those of DOCKER_BUILD_FLAGS, whose arguments are named alone, and their values."""
    return by_name(engine.build_flags, "--build-arg", "")


def _run_build(words: Sequence[str], engine: Engine, what: str, base: str) -> None:
    environment = {**os.environ, **_own_flags(engine)[1], "DOCKER_BUILDKIT": "1"}
    sys.stderr.write(f"Building {what} with {engine.name}\n")
    last: deque[str] = deque(maxlen=5)
    with subprocess.Popen(
        engine.command(*words),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as child:
        for line in child.stdout or ():
            sys.stderr.write(f"{what}: {without_secrets(line)}")  # builds may run side by side
            last.append(line)
    if child.returncode == 0:
        return
    if any("buildx component is missing" in line for line in last):
        raise EnvironmentFailure(
            f"{engine.client} cannot build, since it lacks buildx: install that, or name a client "
            "that can with DOCKER=<path>, for example the one of Debian's docker.io."
        )
    reason = " ".join((last[-1] if last else "it said nothing").split())
    raise EnvironmentFailure(
        f"{what} could not be built; {engine.name} says: {reason}. Where no registry is reachable, "
        f"{base}= names another base, and RUNTIME=local needs no image."
    )


def _load_from_docker(image: Image, engine: Engine, accel: str, no_cache: bool) -> bool:
    """Take over what docker has built already, instead of building it in podman again."""
    if engine.name != "podman" or no_cache:
        return False
    docker = find_engine("docker")
    if not docker or not _held_fresh(image, docker, accel):
        return False
    reference = image.reference(accel)
    sys.stderr.write(f"Loading image {image.name} from docker into podman\n")
    with subprocess.Popen(docker.command("save", reference), stdout=subprocess.PIPE) as saving:
        load = engine.command("load")
        loading = subprocess.run(
            load, check=False, stdin=saving.stdout, capture_output=True, text=True
        )
    loaded = re.search(r"^Loaded image[^:]*: *(\S+)$", loading.stdout, re.MULTILINE)
    if saving.returncode or loading.returncode or not loaded:
        sys.stderr.write(loading.stderr)
        return False
    if loaded[1] != f"localhost/{reference}":
        tag = engine.command("tag", loaded[1], f"localhost/{reference}")
        subprocess.run(tag, check=False, capture_output=True)
        untag = engine.command("untag", loaded[1], loaded[1])
        subprocess.run(untag, check=False, capture_output=True)
    return _held_fresh(image, engine, accel) is not None


def _check(image: Image, engine: Engine, accel: str) -> ImageReference:
    """Run a new image and record what it says; new code alone needs no second check."""
    from espalier.host.images.sbom import debian_packages, whole_list  # no image has what it needs

    reference = image.reference(accel)
    held = engine.inspect(reference)
    if not held:
        raise EnvironmentFailure(f"{engine.name} built {reference}, but does not hold it.")
    record = RECORDS / f"{image.name}-{accel}.json"
    environment = held.labels.get(ENVIRONMENT_LABEL)
    known = json.loads(record.read_text()) if record.is_file() else {}
    contents, debian = known.get("contents"), known.get("debian")
    if not contents or debian is None or known.get("environment") != environment:
        sys.stderr.write(f"Checking image {image.name}\n")
        contents = _contents(image, engine, reference)
        try:
            debian = debian_packages(image, accel, engine)
        except EnvironmentFailure as error:  # another base, which does not stop it from working
            sys.stderr.write(f"{error}; its list is of Python's packages alone.\n")
            debian = []
    current = {
        "reference": reference,
        "digest": held.digest,
        "engine": engine.name,
        "built": datetime.now(UTC).isoformat(timespec="seconds"),
        "size": held.size,
        "environment": environment,
        "labels": held.labels,
        "contents": contents,
        "debian": debian,
    }
    write_text(record, to_json(current, indent=2) + "\n")
    write_text(record.with_suffix(".cdx.json"), whole_list(image, accel, held, debian))
    return ImageReference(reference, held.digest)


def _contents(image: Image, engine: Engine, reference: str) -> dict[str, Any]:
    """What the image's own check says is in it.

    Raises:
        EnvironmentFailure: it finds that the image does not work.
    """
    words = ("run", *CONFINED, *ANY_UID, *engine.run_flags, reference)
    ran = subprocess.run(engine.command(*words), check=False, capture_output=True, text=True)
    if ran.returncode:
        sys.stderr.write(ran.stderr)
        reason = " ".join((ran.stderr.strip().splitlines() or ["it said nothing"])[-1].split())
        raise EnvironmentFailure(f"Image {image.name} does not work: {reason}")
    contents: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
    return contents
