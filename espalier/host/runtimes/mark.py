"""Which containers are a run's own: those with a random label that its partial result knows.

An engine may be shared by users and stores, whose names and paths may agree; a
random mark does not.
"""

import re
import secrets
import subprocess
from pathlib import Path

from espalier.contract.files import write_text
from espalier.contract.manifest import RUN_FOLDER
from espalier.errors import EnvironmentFailure
from espalier.host.images import Engine

LABEL = "org.espalier.run"
FILE = "container"
"""In the run's folder: the mark of the last container that was started for it."""


def remove_stale(engine: Engine, output: Path) -> None:
    """Remove what a launcher that died has left running on this output, and nothing else.

    Raises:
        EnvironmentFailure: the engine does not answer, so that one may still write there.
    """
    if found := _marked(engine, output):
        _output(engine, "rm", "-f", *found)


def end_left(engine: Engine, output: Path) -> None:
    """After a start has failed: let its container save and stop, if it has outlived its client.

    Where the engine does not answer, the mark stays: whoever starts next asks again.
    """
    try:
        if found := _marked(engine, output):
            _output(engine, "stop", *found)
        if not _marked(engine, output):
            forget(output)
    except EnvironmentFailure:
        return


def may_run(output: Path) -> bool:
    """Whether a container that was started for this output may run yet."""
    return (output / RUN_FOLDER / FILE).exists()


def forget(output: Path) -> None:
    """Its container has ended."""
    (output / RUN_FOLDER / FILE).unlink(missing_ok=True)


def _marked(engine: Engine, output: Path) -> list[str]:
    """The containers that were started last for this output and are still there."""
    file = output / RUN_FOLDER / FILE
    mark = file.read_text().strip() if file.is_file() else ""
    if not re.fullmatch(r"[0-9a-f]{32}", mark):
        return []
    return _output(engine, "ps", "--all", "--quiet", "--filter", f"label={LABEL}={mark}").split()


def _output(engine: Engine, *words: str) -> str:
    done = subprocess.run(engine.command(*words), check=False, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it does not say why"])[-1].rstrip(".")
        raise EnvironmentFailure(
            f"{engine.name} cannot say whether an earlier start still runs: {reason}; "
            "see that its daemon answers, and run the same command to resume."
        )
    return done.stdout


def new_mark(output: Path) -> str:
    """One that no container has yet, written down before one is started."""
    mark = secrets.token_hex(16)
    (output / RUN_FOLDER).mkdir(parents=True, exist_ok=True)
    write_text(output / RUN_FOLDER / FILE, mark)
    return mark
