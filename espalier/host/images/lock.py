"""Writes the hash-locked lists of packages, and says whether they are up to date.

Locks are compiled for Linux on x86-64 and the image's Python, except those of the host's own
tools, which run anywhere. A lock names no index: where packages come from is
the business of whoever installs.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from espalier.contract.files import write_bytes
from espalier.contract.image import SHARED, locked_lines, locked_names
from espalier.contract.paths import ROOT
from espalier.errors import EnvironmentFailure, InputError, without_secrets
from espalier.host.images.definition import IMAGES, INSTALLER, Image, load_image

HOST_PYTHON = "3.11"
"""The oldest that the host's own tools run with."""
HOST_TOOLS = ("host", "dev")
IMAGE_PLATFORM = "x86_64-manylinux_2_28"
TPU_PLATFORM = "x86_64-manylinux_2_31"
"""The oldest that libtpu is built for."""


@dataclass(frozen=True)
class Lock:
    """One lock, the list it is compiled from, and how."""

    source: Path
    target: Path
    options: list[str] = field(default_factory=list)
    python: str = HOST_PYTHON
    shared: Path | None = None  # a lock whose pins hold here too, and are not repeated
    overrides: Path | None = None  # what is put in against what some package says that it needs

    @property
    def building(self) -> list[str]:
        """How source packages are built that say only then what they need."""
        installer = self.source.parent.parent / SHARED / INSTALLER
        if self.target == installer:
            return ["--no-build"]
        return ["--build-constraints", os.path.relpath(installer, self.source.parent)]

    def command(self, output: Path) -> list[str]:
        command = [
            *(find_uv(), "pip", "compile", "--quiet", "--generate-hashes", *self.building),
            *("--python-version", self.python, "--no-emit-index-url", "--no-emit-find-links"),
            *("--custom-compile-command", f"make lock-{self.source.parent.name}"),
            *self.options,
        ]
        if self.shared:
            command += ["--constraints", os.path.relpath(self.shared, self.source.parent)]
            for name in locked_names(self.shared):
                command += ["--no-emit-package", name]
        if self.overrides:
            command += ["--override", self.overrides.name]
        return [*command, "--output-file", str(output), self.source.name]


def known_locks(images: Path = IMAGES) -> list[str]:
    """The folders with a list to lock, each after those that it has to agree with."""
    names = sorted(path.parent.name for path in images.glob("*/requirements.in"))
    return sorted(names, key=lambda name: (name not in HOST_TOOLS, name == "dev", name != SHARED))


def locks_of(name: str, images: Path = IMAGES) -> Iterator[Lock]:
    """The locks in images/<name>, in the order in which they have to be compiled."""
    folder = images / name
    requirements = folder / "requirements.in"
    if not requirements.is_file():
        known = ", ".join(sorted(known_locks(images)))
        raise InputError(f"There is no lock {name}; known locks: {known}.")
    if name == "host":
        yield Lock(requirements, folder / "requirements.lock", ["--universal"])
    elif name == "dev":
        agree = ["--constraints", "../host/requirements.lock"]
        yield Lock(requirements, folder / "requirements.lock", ["--universal", *agree])
    elif name == SHARED:
        yield from _torch_locks(folder)
    else:
        yield from _image_locks(load_image(name, images))


def _torch_locks(folder: Path) -> Iterator[Lock]:
    requirements, for_images = folder / "requirements.in", ["--python-platform", IMAGE_PLATFORM]
    yield Lock(folder / "installer.in", folder / INSTALLER, for_images)
    cuda = folder / "requirements-cuda.lock"
    yield Lock(requirements, cuda, for_images)
    # The same packages at the same versions, but for torch's build and CUDA's libraries.
    agree = [
        option
        for line in locked_lines(cuda)
        if "==" in line and not line.startswith(("torch==", "nvidia-", "cuda-", "triton=="))
        for option in ("--upgrade-package", line.split()[0])
    ]
    options = [*for_images, *cpu_torch_options(), *agree]
    yield Lock(requirements, folder / "requirements-cpu.lock", options)


def _image_locks(image: Image) -> Iterator[Lock]:
    requirements, for_images = image.folder / "requirements.in", ["--python-platform"]
    if image.parent:
        # What the CUDA build needs contains what the CPU build needs: one lock serves both.
        shared = image.parent.folder / "requirements-cuda.lock"
        target = image.folder / "requirements.lock"
        options = [*for_images, IMAGE_PLATFORM]
        overrides = image.overrides if image.overrides.is_file() else None
        yield Lock(requirements, target, options, image.python, shared, overrides)
        return
    cpu = image.folder / "requirements-cpu.lock"
    yield Lock(requirements, cpu, [*for_images, IMAGE_PLATFORM], image.python)
    # What another accelerator adds; the rest stays at the CPU's versions.
    for more in sorted(image.folder.glob("requirements-*.in")):
        options = [*for_images, TPU_PLATFORM, "--constraints", cpu.name]
        yield Lock(more, more.with_suffix(".lock"), options, image.python)


def compile_lock(name: str, *, check: bool = False, images: Path = IMAGES) -> bool:
    """Compiles the locks in images/<name>; true when they were up to date.

    Pins that are still allowed stay as they are, so that a new upstream release alone does not
    make a lock stale; delete a lock to have everything renewed. With check nothing is written.
    """
    up_to_date = True
    for lock in locks_of(name, images):
        with tempfile.TemporaryDirectory() as scratch:
            output = Path(scratch) / lock.target.name
            if lock.target.is_file():
                shutil.copy(lock.target, output)
            failure = f"{lock.target.name} of {name} could not be compiled"
            # In its folder, so that the comments in the lock name no path of this machine.
            run_uv(lock.command(output), failure, lock.source.parent)
            if not lock.target.is_file() or locked_lines(output) != locked_lines(lock.target):
                up_to_date = False
            if not check:
                write_bytes(lock.target, output.read_bytes())
    return up_to_date


def cpu_torch_options() -> list[str]:
    """Where uv finds the CPU build of torch: in the folder WHEELS, or on torch's own index."""
    wheels = wheels_folder()
    return ["--find-links", str(wheels)] if wheels else ["--torch-backend", "cpu"]


def wheels_folder() -> Path | None:
    """The folder WHEELS, or one that pip is told of, where torch's CPU build lies.

    Raises:
        InputError: WHEELS is given and holds no torch.
    """
    given = os.environ.get("WHEELS")
    folders = [given] if given else os.environ.get("PIP_FIND_LINKS", "").split()
    for folder in folders:
        if any(Path(folder).glob("torch-*.whl")):
            return Path(folder)
    if given:
        raise InputError(f"WHEELS={given} holds no torch-*.whl: give the folder that does.")
    return None


def ca_bundle() -> Path | None:
    """The certificates that package indexes are checked with: CA_BUNDLE, or SSL_CERT_FILE.

    Raises:
        InputError: CA_BUNDLE is given and is no file.
    """
    given = os.environ.get("CA_BUNDLE")
    bundle = given or os.environ.get("SSL_CERT_FILE")
    if bundle and Path(bundle).is_file():
        return Path(bundle)
    if given:
        raise InputError(f"CA_BUNDLE={given} is not a file: give the bundle of certificates.")
    return None


def find_uv() -> str:
    """The host tool's own uv before any other: the tests run with an image's python."""
    folders = (Path(sys.executable).parent, ROOT / ".venv" / "bin")
    own = shutil.which("uv", path=os.pathsep.join(map(str, folders)))
    found = own or shutil.which("uv")
    if not found:
        raise EnvironmentFailure("uv is missing: run `make setup`, which installs it.")
    return found


def run_uv(command: list[str], failure: str, folder: Path | None = None) -> None:
    environment = dict(os.environ, UV_PYTHON_DOWNLOADS="never")
    if bundle := ca_bundle():
        environment["SSL_CERT_FILE"] = str(bundle)
    done = subprocess.run(
        command,
        check=False,
        cwd=folder,
        env=environment,
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.stderr.write(without_secrets(done.stderr))
        reason = " ".join(done.stderr.split("\n", 1)[0].split())
        raise EnvironmentFailure(f"{failure}; uv says: {reason}")
