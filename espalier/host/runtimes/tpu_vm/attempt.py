"""One TPU from being asked for to the last worker's exit record, or to its loss."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from espalier.errors import EnvironmentFailure
from espalier.host.runtimes.tpu_vm.client import State, TpuApi, no_capacity, refused
from espalier.host.runtimes.tpu_vm.lease import Displaced, Lease
from espalier.host.runtimes.tpu_vm.patience import Patience
from espalier.host.runtimes.tpu_vm.records import Exit, Heartbeat, RunRecord
from espalier.host.runtimes.tpu_vm.run_folder import RunFolder
from espalier.host.runtimes.tpu_vm.stops import Stop
from espalier.host.runtimes.tpu_vm.timings import Timings
from espalier.host.stage_exit import RESUMABLE

TAIL = 20
"""Lines of a failed worker's log that the launcher shows."""


@dataclass(frozen=True)
class Ended:
    """Every worker has ended, or was given up after another had."""

    code: int


@dataclass(frozen=True)
class Lost:
    """The TPU or a worker is gone; another TPU can go on."""

    why: str
    preempted: bool


@dataclass(frozen=True)
class Asked:
    """The user wanted it to stop."""

    why: str


@dataclass
class Attempt:
    """What is known of the TPU and its workers, by this machine's clock.

    Attributes:
        deadline: for capacity, in seconds.
        lease: shows, as long as it is followed, that it is.
        heard: when each worker's last report was first seen; no two clocks are compared.
        looked: when the workers' reports were last asked for.
        blind: seconds in which they could not be.
    """

    api: TpuApi
    run: RunFolder
    record: RunRecord
    deadline: float
    say: Callable[[str], None]
    timings: Timings
    stop: Stop
    lease: Lease
    heard: dict[int, tuple[Heartbeat, float]] = field(default_factory=dict)
    looked: float = field(default_factory=time.monotonic)
    blind: float = 0
    said: str = ""

    def __post_init__(self) -> None:
        """A bucket that is away costs no TPU: whatever is asked of it here is asked again."""
        timings = self.timings
        patience = Patience(timings.call, timings.outage, timings.poll_most, self._tell, self.stop)
        self.run = RunFolder(self.run.folder.patient(patience))

    def follow(self) -> Ended | Lost | Asked:
        """Until it has an ending.

        Raises:
            EnvironmentFailure: no capacity in time, no quota, or nothing answers any more.
        """
        began = answered = time.monotonic()
        active: float | None = None
        pause = self.timings.poll
        while True:
            if self.asked:
                return self._stopped(active is not None)
            clock = time.monotonic()
            try:
                state = self.api.state(self.record.tpu)
                if state.name == "ACTIVE":
                    active = active or clock
                self._renew()
                ending = self._with_tpu(active) if active and state.name == "ACTIVE" else None
            except Displaced:
                raise
            except EnvironmentFailure as error:
                if self.asked:
                    return self._stopped(active is not None)
                if clock - answered > self.timings.outage:
                    raise
                self._tell(f"Waiting, since {error}")
                state, ending = State("UNKNOWN"), None
            else:
                answered = clock
            if ending:
                return ending
            if state.lost:
                late = clock - began > self.deadline
                return self._lost(state, was_active=active is not None, late=late)
            if active is None and state.name != "UNKNOWN":
                self._tell(f"{self.record.tpu} is {state.name.lower().replace('_', ' ')}.")
                if clock - began > self.deadline:
                    raise no_capacity(self.record.tpu, state.name, self.deadline)
            self.stop.wait(pause)
            pause = min(pause * 1.5, self.timings.poll_most)

    @property
    def asked(self) -> bool:
        return self.stop.is_set()

    def _renew(self) -> None:
        """Show the workers, and other launchers, that this one is there."""
        self.lease.renew(self.run.folder)

    def _with_tpu(self, active: float) -> Ended | Lost | Asked | None:
        """Look at the workers; an ending, when there is one."""
        exits = self.run.exits(self.record.attempt)
        if exits:
            return self._ending(exits)
        if self.run.asked_to_stop(self.record.attempt):  # make tpu-down, from elsewhere
            return self._stopped(has_workers=True)
        beats = self.run.heartbeats(self.record.attempt)
        self._hear(beats)
        count = self.record.workers
        states = sorted({beat.state for beat in beats.values()})
        ready = sum(beat.state != "preparing" for beat in beats.values())
        if ready < count:
            self._tell(f"{len(beats)} of {count} workers reported, {ready} of {count} are ready.")
        else:
            self._tell(f"{count} of {count} workers: {', '.join(states)}.")
        return self._silent(active)

    def _hear(self, beats: Mapping[int, Heartbeat]) -> None:
        """Note who has reported; while nothing could be asked for, nobody was silent."""
        clock = time.monotonic()
        blind = clock - self.looked if clock - self.looked > self.timings.silence / 2 else 0
        self.heard = {number: (beat, at + blind) for number, (beat, at) in self.heard.items()}
        self.blind += blind
        self.looked = clock
        for number, beat in beats.items():
            if number not in self.heard or self.heard[number][0] != beat:
                self.heard[number] = beat, time.monotonic()

    def _silent(self, active: float) -> Lost | None:
        """Lost, where a worker has not been heard of for too long."""
        deadline = time.monotonic() - self.timings.silence
        silent = [
            str(number)
            for number in range(self.record.workers)
            if self.heard.get(number, (None, active + self.blind))[1] < deadline
        ]
        if not silent:
            return None
        which = f"worker{'s' if len(silent) > 1 else ''} {', '.join(silent)}"
        return Lost(f"{which} of {self.record.workers} did not report", preempted=False)

    def _ending(self, exits: Mapping[int, Exit]) -> Ended | Lost | Asked:
        """Wait for the other workers, ask them to stop when one has failed, and sum up."""
        good = all(ended.code == 0 for ended in exits.values())
        elsewhere = self.run.asked_to_stop(self.record.attempt)
        exits = self._all_exits(exits, self.timings.straggle if good else self.timings.poll)
        if len(exits) < self.record.workers:
            self.run.ask_to_stop(self.record.attempt)
            exits = self._all_exits(exits, self.timings.grace)
        code = verdict(exits, self.record.workers)
        if code in RESUMABLE and elsewhere:
            return Asked(f"{self.record.tpu} was asked to stop by make tpu-down")
        if code not in (0, 2):
            return self._failed(code, exits)
        if code:
            self._show(exits, code)
        return Ended(code)

    def _failed(self, code: int, exits: Mapping[int, Exit]) -> Ended | Lost | Asked:
        """A worker has failed or was stopped: its host, or another's, may have been taken away."""
        silent = len(exits) < self.record.workers
        deadline = time.monotonic() + (self.timings.settle if code in RESUMABLE or silent else 0)
        while True:
            if self._is_lost():
                return Lost(f"{self.record.tpu} was pre-empted", preempted=True)
            if time.monotonic() >= deadline or self.asked:
                break
            self.stop.wait(self.timings.poll)
        # The peers of a host that is gone end in whatever code, in an abort of JAX for instance.
        without_host = silent or any(ended.code == 75 and ended.why for ended in exits.values())
        if self.asked and (without_host or code in RESUMABLE):
            return self._asked(exits)
        if code == 3 or not without_host:  # 3: the others were only kept waiting
            self._show(exits, code)
            return Ended(code)
        why = [f"worker {n}: {ended.why or ended.code}" for n, ended in exits.items() if ended.code]
        return Lost(f"the stage was interrupted ({'; '.join(why)})", preempted=False)

    def _is_lost(self) -> bool:
        """Whether the API says so; an API that does not answer does not."""
        try:
            return self.api.state(self.record.tpu).lost
        except EnvironmentFailure as error:
            self._tell(f"Waiting, since {error}")
            return False

    def _stopped(self, has_workers: bool) -> Ended | Asked:
        """Ask the workers to save, and wait for them as long as that may take."""
        if not has_workers:
            return Asked("stopped before there was a TPU")
        self.say("Asking the workers to save and stop.")
        try:
            self.run.ask_to_stop(self.record.attempt)
            exits = self._all_exits({}, self.timings.grace)
        except Displaced:
            raise
        except EnvironmentFailure as error:
            return Asked(f"stopped; whether the workers have saved is not known ({error})")
        if finished(exits, self.record.workers):
            return Ended(0)
        return self._asked(exits)

    def _asked(self, exits: Mapping[int, Exit]) -> Asked:
        saved = sum(ended.code in (0, 75) for ended in exits.values())
        return Asked(f"stopped; {saved} of {self.record.workers} workers have saved")

    def _all_exits(self, exits: Mapping[int, Exit], seconds: float) -> Mapping[int, Exit]:
        """The records of all workers, or what there are when the time is over.

        A bucket that is away takes none of their time, but all of a service manager's.
        """
        deadline, asked = time.monotonic() + self._at_most(seconds), self.asked
        while len(exits) < self.record.workers and time.monotonic() < deadline:
            if self.asked and not asked:
                self.run.ask_to_stop(self.record.attempt)
                deadline, asked = time.monotonic() + self._at_most(self.timings.grace), True
            time.sleep(self.timings.poll)
            began = time.monotonic()
            self._renew()
            exits = self.run.exits(self.record.attempt)
            if self._saving():
                deadline = max(deadline, time.monotonic() + self.timings.heartbeat)
            if (took := time.monotonic() - began) > self.timings.call:
                deadline += took
            deadline = min(deadline, time.monotonic() + self._at_most(math.inf))
        return exits

    def _at_most(self, seconds: float) -> float:
        """What the workers may take of them, so that the TPU is deleted in time."""
        return self.stop.at_most(seconds, reserve=self.timings.call)

    def _saving(self) -> bool:
        """Whether a worker that still reports brings the result to the bucket."""
        self._hear(self.run.heartbeats(self.record.attempt))
        recent = time.monotonic() - self.timings.silence
        return any(beat.state == "saving" and at > recent for beat, at in self.heard.values())

    def _lost(self, state: State, was_active: bool, late: bool) -> Ended | Lost | Asked:
        """Why it is gone, and whether another would fare better.

        Raises:
            EnvironmentFailure: it would not, because the quota is too small, or because the
                request was not fulfilled while it was valid.
        """
        if finished(self.run.exits(self.record.attempt), self.record.workers):
            return Ended(0)
        if self.run.asked_to_stop(self.record.attempt):
            return Asked(f"{self.record.tpu} was deleted by make tpu-down")
        if state.name == "FAILED" and not was_active:
            if error := refused(state.reason, self.api.place):
                raise error
            if late:
                raise no_capacity(self.record.tpu, state.name, self.deadline)
            return Lost(f"{self.record.tpu} failed ({state.reason or 'no reason given'})", False)
        preempted = state.name in ("PREEMPTED", "SUSPENDING", "SUSPENDED")
        how = "was pre-empted" if preempted else f"is {state.name.lower()}"
        return Lost(f"{self.record.tpu} {how}", preempted)

    def _show(self, exits: Mapping[int, Exit], code: int) -> None:
        """What the first worker that ended so has said."""
        number = min(n for n, ended in exits.items() if ended.code == code)
        lines = (self.run.log(number) or "").splitlines()[-TAIL:]
        reason = f": {exits[number].why}" if exits[number].why else ""
        self.say("\n".join([*lines, f"Worker {number} ended in {exits[number].code}{reason}."]))

    def _tell(self, text: str) -> None:
        """Once, not at each look."""
        if text != self.said:
            self.said = text
            self.say(text)


def verdict(exits: Mapping[int, Exit], workers: int) -> int:
    """The stage's exit code: 0 where all have it, else the one that says most.

    The others of a failed worker are stopped, so that 75 and a signal say least. A worker without
    a record, after another has ended well, may hold work that is not saved.
    """
    if finished(exits, workers):
        return 0
    codes = {ended.code for ended in exits.values()} - {0}
    for code in (2, 3):
        if code in codes:
            return code
    bugs = codes - RESUMABLE
    if bugs:
        return max(bugs)
    return 137 if 137 in codes else 75


def finished(exits: Mapping[int, Exit], workers: int) -> bool:
    """Whether every worker has ended well; the result is in the bucket then."""
    return len(exits) == workers and all(ended.code == 0 for ended in exits.values())
