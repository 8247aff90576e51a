"""Stands for a process that a warm interpreter runs: `python -IS relay.py SOCKET MODULE WORDS…`.

Hands over its variables, its folder and its three streams, passes signals on, and ends as the
command ends. Where no warm interpreter can run it (the variables are others than it has imported
under, or there is none), this process becomes the command itself: slower, and the same.

It starts in some hundredths of a second, so it imports little.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys

FIRST = "ESPALIER_TESTS_FIRST"
PARENT_DEATH = 1
"""prctl's PR_SET_PDEATHSIG."""


def main(path: str, module: str, words: list[str]) -> None:
    """Run the command and end as it does."""
    end_with_parent(signal.SIGKILL)
    pids: list[int] = []
    early: list[int] = []

    def hand_over(number: int, frame: object) -> None:
        early.append(number)
        for pid in pids:
            send(pid, number)

    stops = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, hand_over) for number in stops}
    life, alive = os.pipe()  # `life` is read to its end when this process is gone
    connection = asked(path, module, words, life)
    os.close(life)
    answers = connection.makefile() if connection else None
    pid = answers.readline() if answers else ""
    if (not answers or not pid) and FIRST in os.environ:
        sys.exit(f"no warm interpreter runs {module}, and another would not heed {FIRST}")
    if not answers or not pid:
        os.close(alive)
        for number, handler in before.items():
            signal.signal(number, handler)
        end_with_parent(0)
        os.execv(sys.executable, [sys.executable, "-m", module, *words])
    pids.append(int(pid))
    for number in early:
        send(int(pid), number)
    end_as(int(answers.readline() or -signal.SIGKILL))


def asked(path: str, module: str, words: list[str], life: int) -> socket.socket | None:
    """The connection on which the answer comes: the process's number, then its exit code."""
    here = os.getcwd()  # noqa: PTH109 - pathlib takes long to import
    request = {"module": module, "words": words, "cwd": here, "variables": {**os.environ}}
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
        socket.send_fds(connection, [b"."], [0, 1, 2, life])
        connection.sendall(json.dumps(request).encode())
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return None
    return connection


def send(pid: int, number: int) -> None:
    """Signal the command, which may have ended meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def end_with_parent(number: int) -> None:
    ctypes.CDLL(None).prctl(PARENT_DEATH, number)


def end_as(code: int) -> None:
    """Exit, or die of the same signal."""
    if code < 0:
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
