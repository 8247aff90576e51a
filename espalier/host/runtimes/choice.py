"""Which runtime `RUNTIME=` means."""

from espalier.errors import EnvironmentFailure, InputError
from espalier.host.images import find_engine
from espalier.host.runtimes.base import Runtime
from espalier.host.runtimes.container import ContainerRuntime
from espalier.host.runtimes.local import InsideRuntime, LocalRuntime
from espalier.host.runtimes.slurm.backends import (
    Apptainer,
    Bare,
    ContainerBackend,
    ImageFiles,
    Pyxis,
)
from espalier.host.runtimes.slurm.step import SlurmRuntime, SubmitHostRuntime
from espalier.host.runtimes.tpu_vm.runtime import TpuVmRuntime
from espalier.host.settings import Settings

ENGINES = ("docker", "podman")
NAMES = ("auto", *ENGINES, "local", "slurm", "tpu-vm", "inside")


def choose_runtime(settings: Settings) -> Runtime:
    """`auto` takes docker when an engine answers, else podman, else local.

    Raises:
        InputError: no such runtime.
        EnvironmentFailure: the engine asked for does not answer.
    """
    name = settings.runtime
    if name not in NAMES:
        raise InputError(f"RUNTIME={name} is not known; choose one of {', '.join(NAMES)}.")
    if name == "local":
        return LocalRuntime()
    if name == "inside":
        return InsideRuntime()
    if name == "slurm":
        return SlurmRuntime(_place(settings))
    if name == "tpu-vm":
        nearby = choose_runtime(settings.model_copy(update={"runtime": "auto"}))
        return TpuVmRuntime(settings, nearby=nearby)
    for candidate in ENGINES if name == "auto" else (name,):
        if engine := find_engine(candidate):
            return ContainerRuntime(engine)
    if name == "auto":
        return LocalRuntime()
    raise EnvironmentFailure(
        f"no {name} engine answers; start it, or choose RUNTIME=local, which needs none."
    )


def fetching_runtime(settings: Settings) -> Runtime:
    """What fetches before jobs are submitted; pyxis has no containers outside of a step."""
    place = _place(settings)
    return SubmitHostRuntime(Bare(LocalRuntime()) if isinstance(place, Pyxis) else place)


def _place(settings: Settings) -> ContainerBackend:
    if settings.container == "none":
        return Bare(LocalRuntime())
    if settings.container == "inside":
        return Bare(InsideRuntime())
    root = settings.store.absolute()
    suffix = "sif" if settings.container == "apptainer" else "sqsh"
    pattern = settings.container_image or f"{root}/images/{{image}}-{{accel}}.{suffix}"
    files = ImageFiles(pattern, root / "cache" / "hashes")
    return Apptainer(files) if settings.container == "apptainer" else Pyxis(files)
