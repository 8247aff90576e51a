"""How long a call may take, and for how long one that fails is made again."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field
from typing import TypeVar

from espalier.host.runtimes.tpu_vm.stops import Stop

Answer = TypeVar("Answer")


class TimedOut(Exception):
    """A call has not come back in time."""


@dataclass(frozen=True)
class Patience:
    """With a service that may be away for a while.

    Attributes:
        call: for one call, in seconds, beside the time that its bytes take.
        outage: for which a call that fails is made again.
        pause: between two of them.
        say: told why it waits, and that it goes on.
        stop: whoever asks to stop is waited for no longer than he waits.
    """

    call: float = 60
    outage: float = 0
    pause: float = 15
    say: Callable[[str], None] = lambda text: None
    stop: Stop = field(default_factory=Stop)

    def waits(self, seconds: float, why: str) -> bool:
        """Wait before another try, unless those that were made took too long; False then."""
        if seconds >= self.outage or self.stop.is_set():
            return False
        self.say(f"Waiting, since {why}")
        self.stop.wait(self.pause)
        return True


NONE = Patience()


def within(seconds: float, work: Callable[[], Answer]) -> Answer:
    """What `work` gives; it is left to itself when it takes longer, as a mount that hangs may.

    Raises:
        TimedOut: it took longer.
    """
    answer: Future[Answer] = Future()

    def do() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            answer.set_exception(error)

    threading.Thread(target=do, daemon=True).start()
    try:
        return answer.result(seconds)
    except NotYet:
        if answer.done():
            raise
        raise TimedOut(f"it has not answered for {seconds:.0f} s") from None
