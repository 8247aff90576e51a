"""The signals that ask a launcher to end, and what they become."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from espalier.contract.signals import handled
from espalier.errors import Interrupted

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SERVICE = 75
"""Seconds from SIGTERM or SIGHUP to the end: systemd and Slurm kill what takes longer than 90."""


class Stop(threading.Event):
    """Set when the user asks for the end; a service manager that asks does not wait for long."""

    def __init__(self) -> None:
        super().__init__()
        self._deadline: float | None = None

    def within(self, seconds: float) -> None:
        """Ask for the end in so many seconds, or as few as were said before."""
        deadline = time.monotonic() + seconds
        self._deadline = min(deadline, self._deadline or deadline)
        self.set()

    def at_most(self, seconds: float, reserve: float = 0) -> float:
        """So many seconds, or what is left of them for one thing, when others need `reserve`."""
        if self._deadline is None:
            return seconds
        return max(1.0, min(seconds, self._deadline - time.monotonic() - reserve))

    @property
    def over(self) -> bool:
        """Whether the time that there was for the end is used up."""
        return self._deadline is not None and time.monotonic() > self._deadline


@contextmanager
def stop_event() -> Iterator[Stop]:
    """An event that the first of STOPS sets; the second one raises KeyboardInterrupt.

    Ctrl-C leaves the workers the time to save; a service manager, or a second Ctrl-C, does not.
    """
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        again = stop.is_set()
        if again or number != signal.SIGINT:
            stop.within(SERVICE)
        stop.set()
        if again:
            raise KeyboardInterrupt

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
