"""The kernel's lock on a file, on file systems that have one and on those that have none."""

import errno
import fcntl
from typing import IO, Any

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""How file systems say that they have no locks."""
HELD = (errno.EAGAIN, errno.EACCES)
"""How they say that another has it."""


def try_lock(file: IO[Any]) -> bool | None:
    """Lock an open file until it is closed, if nobody else has; None: there are no locks there."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        if error.errno in HELD:
            return False
        raise
    return True
