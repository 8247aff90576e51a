"""What is in an image, as a CycloneDX list: its locks' packages, and Debian's where it is built."""

import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from espalier import __version__
from espalier.contract.image import locked_lines
from espalier.contract.json_text import to_json
from espalier.errors import EnvironmentFailure
from espalier.host.images.building import CONFINED, pinned_base
from espalier.host.images.definition import Image
from espalier.host.images.engine import Engine

INSTALLED = ("dpkg-query", "--show", "--showformat=${Package} ${Version} ${Architecture}\n")
_PIN = re.compile(r"([\w.-]+)==([^\s;\\]+)")


def sbom(image: Image, accel: str, engine: Engine | None) -> str:
    """The list as JSON of CycloneDX 1.6.

    Each Python package has the sha256 that its lock admits: one a distribution file. Debian's
    packages are asked of the image itself, so only an image that `engine` holds has them.

    Raises:
        EnvironmentFailure: the image does not say what it holds.
    """
    held = engine.inspect(image.reference(accel)) if engine else None
    facts = {
        "espalier:accel": accel,
        "espalier:lock": image.lock_hash(accel),
        "espalier:base": (held and held.labels.get("org.espalier.base")) or pinned_base(image),
        "espalier:digest": held.digest if held else "",
    }
    whole = Component(
        name=f"espalier/{image.name}",
        version=__version__,
        type=ComponentType.CONTAINER,
        bom_ref=f"espalier/{image.name}:{accel}",
        properties=[Property(name=name, value=value) for name, value in facts.items() if value],
    )
    parts = [part for lock in image.lock_files(accel) for part in _of_lock(lock)]
    if engine and held:
        parts += _of_debian(image, accel, engine)
    bom = Bom(components=parts)
    bom.metadata.component = whole
    bom.register_dependency(whole, parts)
    # The same image gives the same list: its number is of its content, and it has no time.
    content = "\0".join(sorted(str(part.bom_ref) for part in parts))
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, f"{facts}{content}")
    listed = json.loads(JsonV1Dot6(bom).output_as_string())
    del listed["metadata"]["timestamp"]
    return to_json(listed, indent=1, sort_keys=True) + "\n"


def _of_lock(lock: Path) -> Iterator[Component]:
    """The packages that a lock pins, one line each and its hashes below."""
    pins: list[tuple[PackageURL, list[str]]] = []
    for line in locked_lines(lock):
        if pin := _PIN.match(line):
            pins.append((PackageURL("pypi", name=pin[1], version=pin[2]), []))
        if pins:
            pins[-1][1].extend(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
    return (_component(url, hashes) for url, hashes in pins)


def _of_debian(image: Image, accel: str, engine: Engine) -> Iterator[Component]:
    command = engine.command(
        *("run", *CONFINED, "--entrypoint", INSTALLED[0], *engine.run_flags),
        *(image.reference(accel), *INSTALLED[1:]),
    )
    asked = subprocess.run(command, check=False, capture_output=True, text=True)
    if asked.returncode:
        reason = " ".join((asked.stderr.strip().splitlines() or ["it said nothing"])[-1].split())
        raise EnvironmentFailure(f"Image {image.name} does not say what it holds: {reason}")
    for line in asked.stdout.splitlines():
        name, version, architecture = line.split()
        yield _component(
            PackageURL("deb", "debian", name, version, qualifiers={"arch": architecture}), []
        )


def _component(url: PackageURL, hashes: list[str]) -> Component:
    return Component(
        name=url.name,
        version=url.version,
        type=ComponentType.LIBRARY,
        purl=url,
        bom_ref=str(url),
        properties=[Property(name="espalier:sha256", value=value) for value in hashes],
    )
