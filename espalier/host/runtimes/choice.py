"""Which runtime `RUNTIME=` means."""

import sys

from espalier.errors import EnvironmentFailure, InputError
from espalier.host.images import Engine, Trial, installed_engine, tried
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
MESSAGE = 240
"""Characters of an engine's message that a line has place for."""
NAMES = ("auto", *ENGINES, "local", "slurm", "tpu-vm", "inside")


def choose_runtime(settings: Settings) -> Runtime:
    """`auto` takes the first engine that is seen to run a container, else local.

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
    if name == "auto":
        engine, passed = first_that_runs()
        runtime = ContainerRuntime(engine) if engine else LocalRuntime()
        if passed:
            _say(
                f"RUNTIME=auto takes {runtime.name} and passes over {described(passed)}; make "
                f"doctor says more, and RUNTIME={runtime.name} takes it without asking."
            )
        return runtime
    return ContainerRuntime(answering(name))


def answering(name: str) -> Engine:
    """The engine that was asked for by its name.

    Raises:
        EnvironmentFailure: it is not installed, or does not answer.
    """
    engine = installed_engine(name)
    why = engine.complaint() if engine else f"there is no {name} on PATH"
    if engine is None or why:
        raise EnvironmentFailure(
            f"no {name} engine answers ({why}); start it and give the same command again, or "
            "choose RUNTIME=local, which needs none."
        )
    return engine


def first_that_runs() -> tuple[Engine | None, list[Trial]]:
    """The first engine that is seen to run a container, and those that were tried before it."""
    passed: list[Trial] = []
    for candidate in filter(None, map(installed_engine, ENGINES)):
        trial = tried(candidate)
        if trial.runs:
            return trial.engine, passed
        passed.append(trial)
    return None, passed


def described(passed: list[Trial]) -> str:
    """Engines and why each was passed over, for one line."""
    return " and ".join(f"{trial.engine.name} ({shortened(trial.fault)})" for trial in passed)


def shortened(text: str) -> str:
    """A message that fits a line: its beginning and its end say most."""
    half = MESSAGE // 2
    return text if len(text) <= MESSAGE else f"{text[:half].rstrip()} … {text[-half:].lstrip()}"


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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
