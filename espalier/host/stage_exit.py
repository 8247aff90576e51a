"""How a stage is started and what its end means: exit codes, and what is kept of its work.

Work is deleted only where no later run could use it: where nothing of it was saved, or where the
stage has refused its input. Of any other ending nobody knows enough to throw days of work away.
"""

import shutil
import signal
from pathlib import Path

from espalier.contract.discovery import stage_named
from espalier.contract.manifest import RUN_FOLDER, RunSpec
from espalier.contract.saved import AGAIN, saved_in, with_place
from espalier.errors import DIVERGED, EnvironmentFailure, EspalierError, InputError, Interrupted
from espalier.host.runtimes.base import Launch, Runtime

RESUMABLE = {Interrupted.exit_code, 130, 137, 143}
"""Exit codes of a stage that was stopped: it was interrupted, or killed by a signal."""
NOT_STARTED = {125, 126, 127}
"""Exit codes of an engine's client that could not run the command."""
TOLD = {InputError.exit_code, EnvironmentFailure.exit_code, DIVERGED, Interrupted.exit_code}
"""Exit codes of a stage that has said why itself, and where the same command continues."""
LONG = ("train", "grow")
"""Verbs whose states outlive a refusal: days later it may be the result that is refused."""


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
    """Run a stage to its end; what it has saved is kept where a later run could use it.

    Raises:
        StageFailed: it failed.
    """
    before = saved_in(launch.output)
    if code := runtime.run(launch):
        raise StageFailed(code, settled(launch.output, code, before))


def check(runtime: Runtime, launch: Launch) -> None:
    """Run the check of what a stage has made, which is kept unless it is found wrong.

    Raises:
        StageFailed: it is wrong, or could not be checked.
    """
    before = saved_in(launch.output)
    if code := runtime.run(launch):
        if code == InputError.exit_code:
            settled(launch.output, code, before)
        raise StageFailed(code)


def settled(partial: Path, code: int, before: str | None) -> str | None:
    """Remove a partial result that is of no use after that exit code.

    Args:
        partial: its folder.
        code: of a stage that has failed.
        before: how far it went when the stage was started. What an earlier start has saved was
            not refused then: a refusal is of how the stage is run now, by GPUS for instance.

    Returns:
        where the same command continues; None: at the beginning.
    """
    place = saved_in(partial)
    refused = code == InputError.exit_code and before is None and _verb(partial) not in LONG
    if refused or (place is None and code not in RESUMABLE):
        shutil.rmtree(partial, ignore_errors=True)
        return None
    return place


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


def _verb(partial: Path) -> str | None:
    file = partial / RUN_FOLDER / "run.json"
    if not file.is_file():
        return None
    return stage_named(RunSpec.model_validate_json(file.read_bytes()).stage).verb
