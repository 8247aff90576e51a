"""Faults of runs on TPU VMs: each strikes a launcher, its slice or its cloud at some moment."""

import random
import signal
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import grpc

from espalier.contract.store import Store
from tests.soak.cloud import Cloud
from tests.soak.kinds import KINDS, Command
from tests.soak.promises import Broken, contents, require_ending
from tests.soak.running import Commands, Running
from tests.soak.twins import Twins
from tests.tpu.asking import PLACE

OFFSETS = (400 * 3600.0, -400 * 3600.0)
"""By which the clock of whoever reaps is wrong."""


@dataclass(frozen=True)
class TpuFault:
    """What is done, once the run is as far as `moment` says.

    Attributes:
        strike: does it, and gives the exit codes that the launcher may end in then.
    """

    name: str
    strike: Callable[["OnTpus", Running], Collection[int]]


@dataclass
class OnTpus:
    """One draw: a run on a TPU VM that is struck, given again, and judged.

    Attributes:
        said: what happened, for whoever repeats it.
    """

    name: str
    fault: TpuFault
    random: random.Random
    commands: Commands
    twins: Twins
    cloud: Cloud
    said: list[str] = field(default_factory=list)

    def run(self) -> str:
        """Strike, give the command again, judge; whether the first was done at once.

        Raises:
            Broken: a promise was not kept.
        """
        running = self.start()
        moment = self.random.choice((self.asked, self.up, self.works))
        while not moment() and running.process.poll() is None:
            time.sleep(0.02)
        codes = self.fault.strike(self, running)
        ending = running.end()
        self.said.append(f"{self.fault.name} once {moment.__name__}: ended in {ending.code}")
        require_ending(ending, codes)
        if ending.code >= 0 and self.cloud.slices(self.name):
            raise Broken(f"a launcher that ended in {ending.code} has left a slice")
        done = bool(contents(Store(self.commands.store), self.name))
        require_ending(self.start().end(), {0})
        if self.cloud.slices(self.name):
            raise Broken("the run is done, and a slice is left")
        self.judge()
        return "done" if done else "resumed"

    def judge(self) -> None:
        """The result is that of a run near by.

        Raises:
            Broken: it is another.
        """
        corpus = KINDS["corpus"]
        twin = self.twins.of(Command(corpus, corpus.words))
        if (made := contents(Store(self.commands.store), self.name)) != twin.contents:
            raise Broken(f"{self.name} is not its twin: {made}, {twin.contents}")

    def start(self) -> Running:
        bucket = str(self.cloud.bucket(self.name))
        words = (str(self.commands.store), bucket, self.name)
        module = [sys.executable, "-m", "tests.soak.on_tpus", *words]
        return self.commands.begin(("on_tpus", *words), module, self.cloud.variables)

    def reap(self, offset: float = 0) -> list[str]:
        """`make tpu-reap`, its clock wrong by so many seconds; what it has deleted."""
        words = ("tpu-reap", *PLACE, f"BUCKET={self.cloud.bucket(self.name)}")
        ending = self.commands.start(*words, variables=self.cloud.variables, offset=offset).end()
        require_ending(ending, {0})
        return [line.split()[1] for line in ending.out.splitlines() if "deleted " in line]

    def asked(self) -> bool:
        """A slice is asked for."""
        return bool(self.cloud.slices(self.name))

    def up(self) -> bool:
        """A host boots."""
        return bool(self.cloud.workers(self.name))

    def works(self) -> bool:
        """The stage runs."""
        return self.cloud.works(self.name)


def kill(draw: OnTpus, running: Running) -> Collection[int]:
    """The slice works on; the next start follows it."""
    running.process.kill()
    return {0, -signal.SIGKILL}


def terminate(draw: OnTpus, running: Running) -> Collection[int]:
    running.process.terminate()
    return {0, 75, -signal.SIGTERM}


def interrupt(draw: OnTpus, running: Running) -> Collection[int]:
    running.process.send_signal(signal.SIGINT)
    return {0, 75}


def preempt(draw: OnTpus, running: Running) -> Collection[int]:
    draw.cloud.preempt(draw.name)
    return {0}


def lose_calls(draw: OnTpus, running: Running) -> Collection[int]:
    """The API is away for some calls."""
    away = draw.random.choice((grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL))
    draw.cloud.server.failures += [away] * draw.random.randint(1, 4)
    return {0}


def start_twice(draw: OnTpus, running: Running) -> Collection[int]:
    """The second waits for the first, and finds it done."""
    require_ending(draw.start().end(), {0})
    return {0}


def reap_live(draw: OnTpus, running: Running) -> Collection[int]:
    """Whatever the clock of whoever reaps says, what a launcher follows stays."""
    draw.reap(draw.random.choice(OFFSETS))
    return {0}


def reap_left(draw: OnTpus, running: Running) -> Collection[int]:
    """A slice whose launcher and whose worker are gone for hours is found, and goes."""
    running.process.kill()
    running.end()
    for host in draw.cloud.workers(draw.name):
        host.off()
    draw.cloud.age(draw.name, hours=12)
    left = draw.cloud.slices(draw.name)
    draw.reap()
    if draw.cloud.slices(draw.name):
        raise Broken(f"tpu-reap leaves {', '.join(left)}")
    return {0, -signal.SIGKILL}


TPU_FAULTS = {
    fault.name: fault
    for fault in (
        TpuFault("TPU: SIGKILL of the launcher", kill),
        TpuFault("TPU: SIGTERM of the launcher", terminate),
        TpuFault("TPU: SIGINT of the launcher", interrupt),
        TpuFault("TPU: slice preempted", preempt),
        TpuFault("TPU: API away", lose_calls),
        TpuFault("TPU: two launchers", start_twice),
        TpuFault("TPU: reaped meanwhile, clock moved", reap_live),
        TpuFault("TPU: left, reaped later", reap_left),
    )
}
