"""The commands behind the Makefile's targets."""

import signal
import sys
from types import FrameType

import typer

from espalier.contract.machine import failure_of_the_machine
from espalier.contract.saved import AGAIN
from espalier.contract.signals import handled
from espalier.errors import EspalierError, Interrupted
from espalier.host.cli import (
    build,
    compare,
    convert,
    describe,
    drift,
    inspect,
    plan,
    push,
    report,
    reproduce,
    run,
    tidy,
    tpu,
)
from espalier.host.services import with_environment
from espalier.host.settings import load_dotenv

CTRL_C = 130
"""What typer returns of a command that KeyboardInterrupt has ended."""

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
GROUPS = (
    *(run, reproduce, compare, convert, plan, inspect, report, push, tidy, drift, build, tpu),
    describe,
)
for group in GROUPS:
    group.register(app)


def main() -> None:
    """Run a command; a failure is one sentence and its exit code."""
    try:
        load_dotenv()
        with handled((signal.SIGTERM,), _stopped):
            ended = app(with_environment(sys.argv[1:]), standalone_mode=False)
    except EspalierError as error:
        if str(error):
            print(f"espalier: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except typer._click.exceptions.ClickException as error:
        print(f"espalier: {error.format_message()}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except Exception as error:
        if (failure := failure_of_the_machine(error)) is None:
            raise
        print(f"espalier: {failure}", file=sys.stderr)  # noqa: T201
        sys.exit(failure.exit_code)
    if ended == CTRL_C:
        print("espalier: interrupted.", file=sys.stderr)  # noqa: T201
        sys.exit(Interrupted.exit_code)
    sys.exit(ended or 0)


def _stopped(number: int, frame: FrameType | None) -> None:
    """What ends a command between its stages is an interruption like any other."""
    signal.signal(number, signal.SIG_IGN)  # once is enough: let the clean-up finish
    raise Interrupted(f"stopped by {signal.Signals(number).name}; {AGAIN}.")
