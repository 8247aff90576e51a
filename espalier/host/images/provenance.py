"""Where an image comes from, as it says itself: labels, and what buildx puts beside it.

Labels are given on the command line, so that a new commit does not rebuild a layer; those that are
the same in every build are in the Dockerfile. There is none of the time: the same files give the
same labels.
"""

import hashlib
import re
import subprocess

from espalier import __version__
from espalier.contract.paths import ROOT
from espalier.host.images.base import base_image, pinned_base
from espalier.host.images.definition import Image
from espalier.host.images.engine import (
    BASE_LABEL,
    CONTEXT_LABEL,
    ENVIRONMENT_LABEL,
    LOCK_LABEL,
    SBOM_LABEL,
    Engine,
)
from espalier.host.revision import code_revision

SCANNER = "docker/buildkit-syft-scanner"
SCANNER_TAG = "stable-1"
"""What lists an image's contents for buildx; it is run by the digest that the tag has now."""
REGISTRY_SECONDS = 30


def labels_of(image: Image, engine: Engine, accel: str) -> dict[str, str]:
    """What changes from build to build."""
    from espalier.host.images.sbom import locked_list  # no image has what it needs

    base = base_image(image, engine.inspect(image.bottom.reference(accel)))
    name, _, named_digest = base.partition("@")
    held_base = engine.inspect(base)
    base_digest = named_digest or (held_base.published if held_base else "")
    labels = {
        BASE_LABEL: "" if base == pinned_base(image) else base,
        "org.opencontainers.image.version": __version__,
        "org.opencontainers.image.revision": code_revision() or "",
        "org.opencontainers.image.base.name": name,
        "org.opencontainers.image.base.digest": base_digest,
        "org.espalier.base": held_base.digest if held_base else "",
        "org.espalier.accel": accel,
        LOCK_LABEL: image.lock_hash(accel),
        SBOM_LABEL: hashlib.sha256(locked_list(image, accel, base).encode()).hexdigest(),
        ENVIRONMENT_LABEL: image.environment_hash(accel, base),
        CONTEXT_LABEL: image.context_hash(accel, base),
        "org.opencontainers.image.source": _source(),
    }
    return {label: value for label, value in labels.items() if value}


def attestations(engine: Engine) -> list[str]:
    """Flags with which buildx keeps provenance and a list of contents beside the image.

    Only docker's containerd store has a place for them, and a build elsewhere would fail. Without a
    registry there is no scanner, and provenance alone; our own list is in any case.
    """
    own = any(
        flag.startswith(("--attest", "--provenance", "--sbom")) for flag in engine.build_flags
    )
    if own or not _keeps_attestations(engine):
        return []
    words = (
        "imagetools",
        "inspect",
        f"{SCANNER}:{SCANNER_TAG}",
        "--format",
        "{{.Manifest.Digest}}",
    )
    digest = engine.ask("buildx", *words, within=REGISTRY_SECONDS).out.strip()
    known = re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
    contents = [f"--attest=type=sbom,generator={SCANNER}@{digest}"] if known else []
    # Its fuller mode tells the values of arguments, and a proxy's may have a password.
    return ["--provenance=mode=min", *contents]


def _keeps_attestations(engine: Engine) -> bool:
    if engine.name != "docker" or engine.ask("buildx", "version").code != 0:
        return False
    store = engine.ask("info", "--format", "{{json .DriverStatus}}")
    return "io.containerd.snapshotter" in store.out


def _source() -> str:
    """The address that the code was cloned from; a path or an account is somebody's own."""
    try:
        done = subprocess.run(
            ["git", "remote", "get-url", "origin"],
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.stdout.startswith("https://") else ""
