"""Which runtime `RUNTIME=` means."""

from espalier.errors import EnvironmentFailure, InputError
from espalier.images import find_engine
from espalier.runtimes.base import Runtime
from espalier.runtimes.container import ContainerRuntime
from espalier.runtimes.local import InsideRuntime, LocalRuntime

ENGINES = ("docker", "podman")
NAMES = ("auto", *ENGINES, "local", "inside")


def choose_runtime(name: str) -> Runtime:
    """`auto` takes docker when an engine answers, else podman, else local.

    Raises:
        InputError: no such runtime.
        EnvironmentFailure: the engine asked for does not answer.
    """
    if name not in NAMES:
        raise InputError(f"RUNTIME={name} is not known; there are {', '.join(NAMES)}.")
    if name == "local":
        return LocalRuntime()
    if name == "inside":
        return InsideRuntime()
    for candidate in ENGINES if name == "auto" else (name,):
        if engine := find_engine(candidate):
            return ContainerRuntime(engine)
    if name == "auto":
        return LocalRuntime()
    raise EnvironmentFailure(
        f"no {name} engine answers; start it, or choose RUNTIME=local, which needs none."
    )
