"""How a stage is started and what its end means: exit codes, and what is kept of its work.

Nothing that was saved is deleted, whatever the stage ended in: that is for make gc and FORCE=1.
Even a refusal may be taken back, by a gate that is mended or by other GPUS. Where nothing was
saved, what is left is removed if this machine can know that nobody works there.
"""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from espalier.contract.made import MADE
from espalier.contract.manifest import MANIFEST, RUN_FOLDER
from espalier.contract.saved import AGAIN, saved_in, with_place
from espalier.contract.worker import nobody_works
from espalier.errors import DIVERGED, EnvironmentFailure, EspalierError, InputError, Interrupted
from espalier.host.file_system import FileSystem
from espalier.host.runtimes.base import Launch, Runtime
from espalier.host.runtimes.mark import may_run

RESUMABLE = {Interrupted.exit_code, 129, 130, 137, 143}
"""Exit codes of a stage that was stopped: it was interrupted, or ended by a signal from outside."""
NOT_STARTED = {125, 126, 127}
"""Exit codes of an engine's client that could not run the command."""
TOLD = {InputError.exit_code, EnvironmentFailure.exit_code, DIVERGED, Interrupted.exit_code}
"""Exit codes of a stage that has said why itself, and where the same command continues."""


class StageFailed(EspalierError):
    """A stage ended badly. What it has not said itself is said here.

    Args:
        code: what it ended in.
        place: where the same command continues, if anything was saved.
    """

    def __init__(self, code: int, place: str | None = None) -> None:
        super().__init__("" if code in TOLD else with_place(_sentence(code, place), place))
        known = {**dict.fromkeys(RESUMABLE, 75), **dict.fromkeys(NOT_STARTED, 3)}
        self.exit_code = code if code in TOLD else known.get(code, 1)


def start(runtime: Runtime, launch: Launch) -> None:
    """Run a stage to its end; what it has saved is kept for a later run.

    Raises:
        StageFailed: it failed.
        EnvironmentFailure: it could not be started.
    """
    with resumable(launch.output):
        code = runtime.run(launch)
    if code:
        raise StageFailed(code, settled(launch.output, code))


def check(runtime: Runtime, launch: Launch) -> None:
    """Run the check of what a stage has made, which is kept whatever it says.

    Raises:
        StageFailed: it is wrong, or could not be checked.
        EnvironmentFailure: the check could not be started.
    """
    with resumable(launch.output):
        code = runtime.run(launch)
    if code:
        raise StageFailed(code)


@contextmanager
def resumable(partial: Path) -> Iterator[None]:
    """Say of an engine or a store that fails here where the same command goes on, if it does."""
    try:
        yield
    except EnvironmentFailure as error:
        if place := saved_in(partial):
            raise type(error)(with_place(str(error), place)) from None
        raise


def settled(partial: Path, code: int) -> str | None:
    """Remove a partial result in which nothing is saved and nobody works.

    Args:
        partial: its folder.
        code: of a stage that has failed.

    Returns:
        where the same command continues; None: at the beginning.
    """
    place = saved_in(partial)
    ended = (partial / MANIFEST).exists() or (partial / RUN_FOLDER / MADE).exists()
    if place is None and not ended and code not in RESUMABLE:
        _remove_if_nobodys(partial)
    return place


def _remove_if_nobodys(partial: Path) -> None:
    """Where it is not certain that nobody works there, or has saved something, it stays."""
    folder = partial / RUN_FOLDER
    if FileSystem.of(partial).shared or may_run(partial):
        return
    with nobody_works(folder) as free:
        if free:
            shutil.rmtree(partial, ignore_errors=True)


def _sentence(code: int, place: str | None) -> str:
    if code == 128 + signal.SIGKILL:
        return f"the stage was killed, probably out of memory; {AGAIN}."
    if code in RESUMABLE:
        return f"the stage was stopped; {AGAIN}."
    if code in NOT_STARTED:
        return "the engine could not start the stage; see its message, or use RUNTIME=local."
    if code > 128:
        return f"the stage crashed ({_signal(code - 128)})" + (f"; {AGAIN}." if place else ".")
    return f"the stage failed for the reason above; {AGAIN}." if place else ""


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
