"""What is in an image, as a CycloneDX list: its locks' packages, and Debian's where it is built."""

import json
import re
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from espalier.host.images.base import base_image
from espalier.host.images.definition import Image
from espalier.host.images.engine import CONFINED, LOCK_LABEL, SBOM_LABEL, Engine, HeldImage

INSTALLED = ("dpkg-query", "--show", "--showformat=${Package} ${Version} ${Architecture}\n")
_PIN = re.compile(r"([\w.-]+)==([^\s;\\]+)")


def sbom(image: Image, accel: str, engine: Engine | None) -> str:
    """The list as JSON of CycloneDX 1.6: of the image that `engine` holds, or will build.

    Raises:
        EnvironmentFailure: the image is another than the locks say, or does not say what it holds.
    """
    held = engine.inspect(image.reference(accel)) if engine else None
    if not (engine and held):
        return locked_list(image, accel, base_image(image))
    if held.labels.get(LOCK_LABEL, image.lock_hash(accel)) != image.lock_hash(accel):
        raise EnvironmentFailure(
            f"image {image.name} was built from other locks; make image-{image.name} builds it "
            "again."
        )
    return whole_list(image, accel, held, debian_packages(image, accel, engine))


def locked_list(image: Image, accel: str, base: str) -> str:
    """What the image's locks put in it, on a base.

    Each package has the sha256 that its lock admits: one a distribution file. The label of a built
    image has the sha256 of this list, which follows from the checkout alone.
    """
    return _listed(image, accel, {"espalier:base": base}, [])


def whole_list(image: Image, accel: str, held: HeldImage, debian: Sequence[str]) -> str:
    """What is in an image that an engine holds, Debian's packages too."""
    labels = held.labels
    facts = {
        "espalier:base": labels.get("org.espalier.base") or base_image(image, held),
        "espalier:digest": held.digest,
        "espalier:revision": labels.get("org.opencontainers.image.revision", ""),
        "espalier:sbom": labels.get(SBOM_LABEL, ""),
    }
    return _listed(image, accel, facts, map(_of_debian, debian))


def debian_packages(image: Image, accel: str, engine: Engine) -> list[str]:
    """Name, version and architecture of each of Debian's packages, as the image says.

    Raises:
        EnvironmentFailure: it does not say.
    """
    command = engine.command(
        *("run", *CONFINED, "--entrypoint", INSTALLED[0], *engine.run_flags),
        *(image.reference(accel), *INSTALLED[1:]),
    )
    asked = subprocess.run(command, check=False, capture_output=True, text=True)
    if asked.returncode:
        reason = " ".join((asked.stderr.strip().splitlines() or ["it said nothing"])[-1].split())
        raise EnvironmentFailure(f"Image {image.name} does not say what it holds: {reason}")
    return asked.stdout.splitlines()


def _listed(image: Image, accel: str, facts: Mapping[str, str], more: Iterable[Component]) -> str:
    facts = {"espalier:accel": accel, "espalier:lock": image.lock_hash(accel), **facts}
    whole = Component(
        name=f"espalier/{image.name}",
        version=__version__,
        type=ComponentType.CONTAINER,
        bom_ref=f"espalier/{image.name}:{accel}",
        properties=[Property(name=name, value=value) for name, value in facts.items() if value],
    )
    parts = [part for lock in image.lock_files(accel) for part in _of_lock(lock)]
    parts += more
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


def _of_debian(line: str) -> Component:
    name, version, architecture = line.split()
    url = PackageURL("deb", "debian", name, version, qualifiers={"arch": architecture})
    return _component(url, [])


def _component(url: PackageURL, hashes: list[str]) -> Component:
    return Component(
        name=url.name,
        version=url.version,
        type=ComponentType.LIBRARY,
        purl=url,
        bom_ref=str(url),
        properties=[Property(name="espalier:sha256", value=value) for value in hashes],
    )
