"""The faults: each strikes a command that is held at one of its writes."""

import contextlib
import errno
import os
import random
import signal
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, field

from tests.soak.disk import Disk
from tests.soak.holding import Held
from tests.soak.promises import require_ending
from tests.soak.running import Commands, Running

HOUR = 3600.0
OFFSETS = (0.0, 30 * HOUR, 9000 * HOUR, -30 * HOUR)
"""By which a clock may be wrong."""


@dataclass
class Scene:
    """A command that is held, and what a fault may need.

    Attributes:
        words: of the command; `rival`: those of another result of its name, if there is one.
        engine: variables by which the command line finds an engine whose daemon stops.
        after: what has to be put right when the command has ended.
        rival_won: whether the name is the rival's from now on.
    """

    commands: Commands
    words: list[str]
    rival: list[str]
    engine: dict[str, str]
    disk: Disk | None
    draw: random.Random
    running: Running
    held: Held
    after: ExitStack = field(default_factory=ExitStack)
    rival_won: bool = False


@dataclass(frozen=True)
class Fault:
    """What is done to a command.

    Attributes:
        roles: of the processes that it can be held in.
        strike: does it, and gives the exit codes that the command may end in then.
        alone: whether no other command may run meanwhile.
        wants_rival, wants_disk: whether it can only strike where there is such a thing.
    """

    name: str
    roles: tuple[str, ...]
    strike: Callable[[Scene], Collection[int]]
    weight: int = 2
    alone: bool = False
    wants_rival: bool = False
    wants_disk: bool = False


def kill_launcher(scene: Scene) -> Collection[int]:
    """Its stage is left alone, and ends by itself."""
    scene.running.process.kill()
    scene.held.release()
    return {-signal.SIGKILL}


def kill_held(scene: Scene) -> Collection[int]:
    """As the kernel does when memory is short."""
    os.kill(scene.held.pid, signal.SIGKILL)
    scene.held.release()
    return {75}


def kill_both(scene: Scene) -> Collection[int]:
    """As at a power cut, but for what the disk had not yet."""
    scene.running.process.kill()
    with contextlib.suppress(ProcessLookupError):  # it is the launcher, or has died with it
        os.kill(scene.held.pid, signal.SIGKILL)
    scene.held.release()
    return {-signal.SIGKILL}


def hang(scene: Scene) -> Collection[int]:
    """The stage stands still while its launcher dies and the same command is given again."""
    os.kill(scene.held.pid, signal.SIGSTOP)
    scene.running.process.kill()
    again = scene.commands.start(*scene.words)
    time.sleep(1)
    with contextlib.suppress(ProcessLookupError):
        os.kill(scene.held.pid, signal.SIGCONT)
    scene.held.release()
    require_ending(again.end(), {0})
    return {-signal.SIGKILL}


def terminate_launcher(scene: Scene) -> Collection[int]:
    scene.running.process.terminate()
    scene.held.release()
    return {0, 75, -signal.SIGTERM}


def interrupt_launcher(scene: Scene) -> Collection[int]:
    """Ctrl-C."""
    scene.running.process.send_signal(signal.SIGINT)
    scene.held.release()
    return {0, 75}


def terminate_stage(scene: Scene) -> Collection[int]:
    os.kill(scene.held.pid, signal.SIGTERM)
    scene.held.release()
    return {0, 75}


def full_disk(scene: Scene) -> Collection[int]:
    """All that is left is so little; there is space again when the command has ended."""
    assert scene.disk
    scene.disk.fill(left=scene.draw.choice((0, 4096, 40_000)))
    scene.after.callback(scene.disk.free)
    scene.held.release()
    return {0, 3}


def no_space(scene: Scene) -> Collection[int]:
    """For this process alone, to its end."""
    scene.held.release(errno.ENOSPC, -1)
    return {0, 3}


def io_error(scene: Scene) -> Collection[int]:
    """Once, as of a bad sector or a server that was away."""
    scene.held.release(errno.EIO, 1)
    return {0, 3}


def io_errors(scene: Scene) -> Collection[int]:
    """From now on."""
    scene.held.release(errno.EIO, -1)
    return {0, 3}


def tidy(scene: Scene) -> Collection[int]:
    """Whatever the clock of whoever tidies says, what is worked on stays."""
    tidied = scene.commands.give("gc", "MIN_AGE=0", offset=scene.draw.choice(OFFSETS))
    require_ending(tidied, {0})
    scene.held.release()
    return {0}


def tidy_all(scene: Scene) -> Collection[int]:
    require_ending(scene.commands.give("gc", "MIN_AGE=0", "ALL=1"), {0})
    scene.held.release()
    return {0}


def give_twice(scene: Scene) -> Collection[int]:
    """The second waits for the first, even if it thinks that the first's lease is long over."""
    second = scene.commands.start(*scene.words, offset=scene.draw.choice(OFFSETS))
    time.sleep(0.5)
    scene.held.release()
    require_ending(second.end(), {0})
    return {0}


def give_twice_and_kill(scene: Scene) -> Collection[int]:
    """The second waits, and goes on with what the first has left."""
    second = scene.commands.start(*scene.words)
    time.sleep(0.5)
    codes = kill_both(scene)
    require_ending(second.end(), {0})
    return codes


def refuse_to_wait(scene: Scene) -> Collection[int]:
    require_ending(scene.commands.give(*scene.words, "WAIT=0"), {3})
    scene.held.release()
    return {0}


def rival(scene: Scene) -> Collection[int]:
    """Another result of the same name waits, and is refused."""
    second = scene.commands.start(*scene.rival)
    time.sleep(0.5)
    scene.held.release()
    require_ending(second.end(), {2})
    return {0}


def rival_wins(scene: Scene) -> Collection[int]:
    """Where the first is killed the name is free for the other."""
    second = scene.commands.start(*scene.rival)
    time.sleep(0.5)
    codes = kill_both(scene)
    require_ending(second.end(), {0})
    scene.rival_won = True
    return codes


def stop_daemon(scene: Scene) -> Collection[int]:
    """What was begun is gone on with by an engine whose daemon stops, and later without."""
    codes = kill_both(scene)
    scene.running.end()
    for _ in range(2):
        ending = scene.commands.start(*scene.words, variables=scene.engine, runtime="docker").end()
        require_ending(ending, {3})
    return codes


ANY = ("launcher", "stage", "rank")
STAGE = ("stage",)

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("SIGKILL of the launcher", ANY, kill_launcher, 3),
        Fault("SIGKILL of the stage", STAGE, kill_held, 3),
        Fault("SIGKILL of a rank", ("rank",), kill_held),
        Fault("SIGKILL of both", ("stage", "rank"), kill_both, 3),
        Fault("launcher killed, stage hangs", STAGE, hang, 1),
        Fault("SIGTERM of the launcher", ANY, terminate_launcher),
        Fault("SIGINT of the launcher", ANY, interrupt_launcher),
        Fault("SIGTERM of the stage", STAGE, terminate_stage),
        Fault("disk full (tmpfs)", ANY, full_disk, 3, alone=True, wants_disk=True),
        Fault("ENOSPC from there on", ANY, no_space),
        Fault("EIO once", ANY, io_error, 3),
        Fault("EIO from there on", ANY, io_errors),
        Fault("gc meanwhile, any clock", ANY, tidy),
        Fault("gc ALL=1 meanwhile", STAGE, tidy_all, 1, alone=True),
        Fault("given twice, any clock", ANY, give_twice),
        Fault("given twice, one killed", STAGE, give_twice_and_kill),
        Fault("given twice, WAIT=0", STAGE, refuse_to_wait, 1),
        Fault("two results of a name", STAGE, rival, 1, wants_rival=True),
        Fault("two of a name, one killed", STAGE, rival_wins, 1, wants_rival=True),
        Fault("daemon stopped", STAGE, stop_daemon),
    )
}
