"""How a stage is started and what its end means: exit codes, and what is kept of its work."""

import shutil
import signal

from espalier.errors import EspalierError, InputError
from espalier.host.runtimes.base import Launch, Runtime

RESUMABLE = {75, 130, 137, 143}
"""Exit codes after which the partial result is kept: interrupted, or killed by a signal."""
NOT_STARTED = {125, 126, 127}
"""Exit codes of an engine's client that could not run the command."""


class StageFailed(EspalierError):
    """A stage ended badly and has said why itself."""

    def __init__(self, code: int) -> None:
        sentences = {
            128 + signal.SIGKILL: "the stage was killed, probably out of memory; run "
            "the same command to resume.",
            **dict.fromkeys(
                NOT_STARTED,
                "the engine could not start the stage; see its message, or use RUNTIME=local.",
            ),
        }
        super().__init__(sentences.get(code, ""))
        codes = {**dict.fromkeys(RESUMABLE, 75), **dict.fromkeys(NOT_STARTED, 3), 2: 2, 3: 3}
        self.exit_code = codes.get(code, 1)


def start(runtime: Runtime, launch: Launch) -> None:
    """Run a stage to its end; partial work is kept where the same command can go on with it.

    Raises:
        StageFailed: it failed.
    """
    if code := runtime.run(launch):
        if code not in RESUMABLE:
            shutil.rmtree(launch.output, ignore_errors=True)
        raise StageFailed(code)


def check(runtime: Runtime, launch: Launch) -> None:
    """Run the check of what a stage has made, which is kept unless it is found wrong.

    Raises:
        StageFailed: it is wrong, or could not be checked.
    """
    if code := runtime.run(launch):
        if code == InputError.exit_code:
            shutil.rmtree(launch.output, ignore_errors=True)
        raise StageFailed(code)
