"""Handlers of signals for as long as a block lasts, and what asks a stage to stop."""

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM)
"""What asks a stage to stop."""


@contextmanager
def handled(
    signals: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], Any]
) -> Iterator[None]:
    """Give these signals to the handler; afterwards to whoever had them."""
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def asked_to_stop(file: Path) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into a file that every rank looks for after each step."""

    def ask(number: int, frame: FrameType | None) -> None:
        file.touch()

    with handled(STOPS, ask):
        yield


def ignore_stops() -> None:
    """Leave it to another process of the run to be asked."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
