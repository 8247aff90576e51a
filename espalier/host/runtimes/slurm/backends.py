"""Where a step's command finds its packages: a container of apptainer or pyxis, or the node."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from espalier.contract.fingerprint import cached_sha256
from espalier.contract.manifest import ImageRecord
from espalier.contract.paths import ROOT
from espalier.errors import EnvironmentFailure
from espalier.host.images import load_image
from espalier.host.images.definition import CODE
from espalier.host.runtimes.base import COMMAND, Launch, quiet_environment
from espalier.host.runtimes.local import HostRuntime
from espalier.host.runtimes.mounts import Mount, container_path, mounts_of, refused, secret_path

IN_CONTAINER = ("/opt/venv/bin/python", *COMMAND[1:], "/out")
"""By its path: Slurm looks for commands on the node, not in the container."""
WRAPPER = Path(__file__).with_name("apptainer.sh")
MISREAD_BY_PYXIS = re.compile(r"""[:,"$`\\\s\x00-\x1f\x7f]""")
"""It separates mounts by these, or writes them unquoted into a script and a table of mounts."""
TUNING = ("NCCL_", "UCX_", "FI_")
"""Beginnings of variables that say how a cluster's nodes reach each other."""


class ContainerBackend(Protocol):
    """Turns a launch into what one task of a step runs."""

    def image(self, name: str, device: str, build: bool) -> ImageRecord:
        """As `Runtime.image`."""

    def seen_path(self, role: str, path: Path) -> str:
        """As `Runtime.seen_path`."""

    def require_mountable(self, launch: Launch) -> None:
        """As `Mounting.require_mountable`."""

    def flags(self, launch: Launch) -> list[str]:
        """What srun must be told."""

    def command(self, launch: Launch) -> list[str]:
        """What each task runs."""

    def environment(self, launch: Launch) -> dict[str, str]:
        """The environment that srun, and with it the command, is started in."""


@dataclass(frozen=True)
class Bare:
    """No container: the virtual environment of the image's lock, or the tests' own python."""

    host: HostRuntime

    def image(self, name: str, device: str, build: bool) -> ImageRecord:
        return self.host.image(name, device, build)

    def seen_path(self, role: str, path: Path) -> str:
        return self.host.seen_path(role, path)

    def require_mountable(self, launch: Launch) -> None:
        """Whatever it is: nothing is mounted."""

    def flags(self, launch: Launch) -> list[str]:
        return ["--export=ALL"]

    def command(self, launch: Launch) -> list[str]:
        return self.host.argv(launch)

    def environment(self, launch: Launch) -> dict[str, str]:
        return self.host.environment(launch)


@dataclass(frozen=True)
class ImageFiles:
    """Where each image is: a path or a registry's reference with `{image}` and `{accel}` in it."""

    pattern: str
    hashes: Path

    def reference(self, name: str, device: str) -> str:
        return self.pattern.replace("{image}", name).replace("{accel}", device)

    def record(self, name: str, device: str, build: bool) -> ImageRecord:
        """The file by its hash; a registry's reference is taken as it is.

        Raises:
            EnvironmentFailure: there is no such file.
        """
        lock = load_image(name).lock_hash(device)
        reference = self.reference(name, device)
        path = Path(reference)
        if not build or not reference.startswith("/"):
            return ImageRecord(name=name, lock=lock, reference=reference)
        if not path.is_file():
            raise EnvironmentFailure(
                f"{path} does not exist; make it from the archive that make save-{name} writes, "
                "or say with CONTAINER_IMAGE= where it is."
            )
        digest = f"sha256:{cached_sha256(path, self.hashes)}"
        return ImageRecord(name=name, lock=lock, reference=reference, digest=digest)


@dataclass(frozen=True)
class Apptainer:
    """A SIF file, with nothing of the host's home, environment or processes."""

    files: ImageFiles

    def image(self, name: str, device: str, build: bool) -> ImageRecord:
        return self.files.record(name, device, build)

    def seen_path(self, role: str, path: Path) -> str:
        return container_path(role, path)

    def require_mountable(self, launch: Launch) -> None:
        for mount in _mounts(launch):
            mount.flag()

    def flags(self, launch: Launch) -> list[str]:
        return ["--export=ALL"]  # which the container does not see

    def command(self, launch: Launch) -> list[str]:
        return [
            str(WRAPPER),
            *("--containall", "--no-home", "--pwd=/tmp"),
            *(["--nv"] if launch.device == "cuda" else []),
            *(mount.flag() for mount in _mounts(launch)),
            *(self.files.reference(launch.image, launch.device), *IN_CONTAINER),
        ]

    def environment(self, launch: Launch) -> dict[str, str]:
        """What the container is to see bears apptainer's prefix."""
        inside = {f"APPTAINERENV_{name}": value for name, value in _wanted(launch).items()}
        return {**_own(), **inside}


@dataclass(frozen=True)
class Pyxis:
    """srun's own containers, where it has the plugin: a .sqsh file or a registry's image."""

    files: ImageFiles

    def image(self, name: str, device: str, build: bool) -> ImageRecord:
        return self.files.record(name, device, build)

    def seen_path(self, role: str, path: Path) -> str:
        return container_path(role, path)

    def require_mountable(self, launch: Launch) -> None:
        for mount in _mounts(launch):
            _entry(mount)

    def flags(self, launch: Launch) -> list[str]:
        names = ",".join(self._variables(launch))
        return [
            f"--export={names}",
            f"--container-image={self.files.reference(launch.image, launch.device)}",
            f"--container-mounts={','.join([*map(_entry, _mounts(launch)), 'tmpfs:/tmp'])}",
            f"--container-env={names}",
            "--container-workdir=/tmp",
            "--container-readonly",
            "--no-container-mount-home",
            "--no-container-remap-root",
            "--no-container-entrypoint",
        ]

    def command(self, launch: Launch) -> list[str]:
        return list(IN_CONTAINER)

    def environment(self, launch: Launch) -> dict[str, str]:
        return {**_own(), **self._variables(launch)}

    def _variables(self, launch: Launch) -> dict[str, str]:
        gpu = {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
        return {**_wanted(launch), **(gpu if launch.device == "cuda" else {})}


def _mounts(launch: Launch) -> Iterator[Mount]:
    """What the launch has mounted, and this very code.

    The image holds code too; what was fingerprinted, and what every node runs, is the caller's.
    """
    yield from mounts_of(launch)
    for name in CODE:
        yield Mount(ROOT / name, f"/opt/espalier/{name}")


def _entry(mount: Mount) -> str:
    """`source:target:mode`, as pyxis has it.

    Raises:
        InputError: it would read another path than this.
    """
    source = str(mount.source.resolve())
    for text in (source, mount.target):
        if found := MISREAD_BY_PYXIS.search(text):
            raise refused(text, f"has {found[0]!a}, and pyxis misreads it", "CONTAINER=none")
    return f"{source}:{mount.target}:{'rw' if mount.writable else 'ro'}"


def tuning(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that NCCL and the fabrics' libraries read."""
    return {name: value for name, value in variables.items() if name.startswith(TUNING)}


def _own() -> dict[str, str]:
    """What srun and apptainer themselves are started with; theirs to hand in is ours to say."""
    return {
        name: value
        for name, value in os.environ.items()
        if name != "HF_TOKEN" and not name.startswith(("APPTAINERENV_", "SINGULARITYENV_"))
    }


def _wanted(launch: Launch) -> dict[str, str]:
    secrets = {name: secret_path(name) for name in launch.secrets}
    return {**tuning(), **quiet_environment(launch), **secrets}
