"""The signals that ask a launcher to end, and what they become."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from espalier.contract.signals import handled
from espalier.errors import Interrupted

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stop_event() -> Iterator[threading.Event]:
    """An event that the first of STOPS sets; the second one raises KeyboardInterrupt."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    with handled(STOPS, ask):
        yield stop


@contextmanager
def raise_on_stop() -> Iterator[None]:
    """Each of STOPS interrupts, so that what was begun is undone.

    Raises:
        Interrupted: one has come.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        with handled(STOPS, ask):
            yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted.") from None
