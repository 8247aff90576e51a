"""Draws that run side by side, and those that must be alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Any number share a turn, or one has it alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing, self._waiting = 0, 0
        self._alone = False

    @contextmanager
    def turn(self, alone: bool) -> Iterator[None]:
        """Wait for one, and have it until the block ends."""
        with self._changed:
            self._waiting += alone
            if alone:
                self._changed.wait_for(lambda: not self._sharing and not self._alone)
                self._alone = True
            else:
                self._changed.wait_for(lambda: not self._alone and not self._waiting)
                self._sharing += 1
            self._waiting -= alone
        try:
            yield
        finally:
            with self._changed:
                if alone:
                    self._alone = False
                else:
                    self._sharing -= 1
                self._changed.notify_all()
