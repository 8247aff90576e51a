"""A rank that is gone: how the others notice, and what is said of it."""

import re
import signal

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from espalier.contract.processes import Share
from espalier.contract.saved import AGAIN
from espalier.errors import EspalierError, Interrupted

PEER = re.compile(
    r"closed by peer|reset by peer|broken pipe|timed out|timeout|connection refused", re.IGNORECASE
)
"""What a collective says whose peer has gone, whichever library moves the bytes."""
LIBRARY = re.compile(r"gloo|NCCL", re.IGNORECASE)
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
"""Signals of a process's own fault; any other came from outside, or from NCCL that gave up."""


class RankCrashed(EspalierError):
    """A rank ended by its own fault, and has not said why in a sentence."""


def lost_peer(error: BaseException) -> Interrupted | None:
    """What a failed collective means; None: it is no such failure."""
    said = PEER.search(str(error)) or LIBRARY.search(str(error))
    if isinstance(error, DistError) or (isinstance(error, RuntimeError) and said):
        why = said[0] if said else type(error).__name__
        return Interrupted(f"another process of the run was lost ({why}); {AGAIN}.")
    return None


def crashed(share: Share) -> RankCrashed:
    """What a rank leaves of a bug, beside its traceback."""
    return RankCrashed(f"process {share.rank + 1} of {share.world} failed for the reason above.")


def ending(error: ChildFailedError, world: int) -> EspalierError:
    """What the ranks' exit codes mean, of ranks that have not said it themselves."""
    failures = sorted(error.failures.items(), key=lambda found: found[1].exitcode)
    rank, failure = failures[0]  # exit codes of signals are negative
    if failure.exitcode >= 0:
        return crashed(Share(rank, world))
    who = f"process {rank + 1} of {world}"
    number = signal.Signals(-failure.exitcode)
    if number in CRASHES:
        return RankCrashed(f"{who} crashed ({number.name}).")
    probably = ", probably out of memory" if number == signal.SIGKILL else ""
    return Interrupted(f"{who} was killed ({number.name}){probably}; {AGAIN}.")
