"""Stages without an engine: a virtual environment from the image's own lock, or this process's."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from espalier.contract.cores import usable_cores
from espalier.contract.image import around_us, in_an_image
from espalier.contract.manifest import ImageRecord
from espalier.contract.paths import ROOT
from espalier.contract.processes import COMPILED
from espalier.contract.threads import without_numeric
from espalier.host.gpus import visible
from espalier.host.images import load_image
from espalier.host.images.definition import packages_lock
from espalier.host.images.venv import ensure_venv, venv_python
from espalier.host.runtimes.base import COMMAND, Launch, quiet_environment, run_to_end

ENVIRONMENTS = ROOT / ".espalier" / "venvs"
UNWANTED = ("PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "HF_TOKEN")
"""Of the caller's variables: Python is to keep the bytecode of what a stage imports."""


@dataclass(frozen=True)
class HostRuntime:
    """Runs the stage on the host itself; paths are the host's."""

    name: str
    network: bool = True
    shows_gpus: bool = True

    @property
    def cores(self) -> int:
        return usable_cores()

    @property
    def nearby(self) -> "HostRuntime":
        return self

    def image(self, name: str, device: str, build: bool) -> ImageRecord:
        raise NotImplementedError

    def seen_path(self, role: str, path: Path) -> str:
        return str(path.resolve())

    def environment(self, launch: Launch) -> dict[str, str]:
        """The caller's environment without what would leak into the stage's packages or numbers."""
        harmless = without_numeric(os.environ).items()
        kept = {k: v for k, v in harmless if k not in UNWANTED}
        secrets = {variable: str(path) for variable, path in launch.secrets.items()}
        compiled = {COMPILED: str(launch.compiled.resolve())} if launch.compiled else {}
        own = {"PYTHONPATH": str(ROOT), "PYTHONNOUSERSITE": "1"}
        gpus = visible(launch.gpus) if launch.gpus and launch.device == "cuda" else {}
        return {**kept, **quiet_environment(launch), **secrets, **compiled, **own, **gpus}

    def python(self, launch: Launch) -> str:
        raise NotImplementedError

    def argv(self, launch: Launch) -> list[str]:
        return [self.python(launch), *COMMAND[1:], str(launch.output.resolve())]

    def run(self, launch: Launch) -> int:
        return run_to_end(self.argv(launch), self.environment(launch))


@dataclass(frozen=True)
class LocalRuntime(HostRuntime):
    """A virtual environment an image, with the same pins."""

    name: str = "local"

    def image(self, name: str, device: str, build: bool) -> ImageRecord:
        if build:
            ensure_venv(name, device, ENVIRONMENTS)
        return ImageRecord(name=name, lock=load_image(name).lock_hash(device))

    def environment(self, launch: Launch) -> dict[str, str]:
        """As above; a command is told without its packages, and run with them."""
        ensure_venv(launch.image, launch.device, ENVIRONMENTS)
        return super().environment(launch)

    def python(self, launch: Launch) -> str:
        return str(venv_python(launch.image, launch.device, ENVIRONMENTS))


@dataclass(frozen=True)
class InsideRuntime(HostRuntime):
    """Inside an image already, as compose's services are: this interpreter runs the stage."""

    name: str = "inside"

    def image(self, name: str, device: str, build: bool) -> ImageRecord:
        """The lock that this image was built from.

        Raises:
            EnvironmentFailure: this is another image.
        """
        # Not in an image, as in the project's own tests, the locks are the checkout's.
        reference = os.environ.get("ESPALIER_IMAGE") if in_an_image() else None
        return ImageRecord(name=name, lock=packages_lock(name, device), reference=reference)

    def is_around(self, image: str) -> bool:
        return not in_an_image() or around_us(image)

    def python(self, launch: Launch) -> str:
        return sys.executable
