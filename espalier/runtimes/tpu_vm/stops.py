"""The signals that ask a launcher to end, and what they become."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from espalier.errors import Interrupted

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def noted() -> Iterator[threading.Event]:
    """An event that the first of STOPS sets; the second one raises KeyboardInterrupt."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    with _handled(ask):
        yield stop


@contextmanager
def raised() -> Iterator[None]:
    """Each of STOPS interrupts, so that what was begun is undone.

    Raises:
        Interrupted: one has come.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        with _handled(ask):
            yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted.") from None


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in STOPS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
