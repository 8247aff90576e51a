"""Follows a run to its end over as many TPUs as that takes, and leaves none of them behind."""

from collections.abc import Callable
from dataclasses import dataclass, field

from espalier.errors import EnvironmentFailure, EspalierError, InputError, Interrupted
from espalier.host.runtimes.tpu_vm.attempt import Asked, Attempt, Ended, Lost, finished
from espalier.host.runtimes.tpu_vm.client import TpuApi
from espalier.host.runtimes.tpu_vm.folder import Folder
from espalier.host.runtimes.tpu_vm.lease import Displaced, Lease
from espalier.host.runtimes.tpu_vm.options import Wanted
from espalier.host.runtimes.tpu_vm.patience import Patience
from espalier.host.runtimes.tpu_vm.records import RunRecord, TpuRecord, now
from espalier.host.runtimes.tpu_vm.request import creation, new_owner, tpu_name
from espalier.host.runtimes.tpu_vm.run_folder import RunFolder
from espalier.host.runtimes.tpu_vm.startup import WorkOrder, startup_script
from espalier.host.runtimes.tpu_vm.stops import Stop
from espalier.host.runtimes.tpu_vm.timings import Timings
from espalier.host.runtimes.tpu_vm.tpu_folder import TpuFolder

MAX_OTHER_FAILURES = 3
"""Attempts that may be lost for another reason than pre-emption."""


@dataclass
class Launcher:
    """One run, from the first TPU to the last.

    Attributes:
        deadline: for capacity, in seconds.
        attempts: the most TPUs that one start of the launcher may use.
        keep: leave the TPU that the run has ended on.
        held: a TPU that is there already, and is not the launcher's to delete.
        lease: on the run, which one launcher at a time follows.
        stop: set when the user asks for it.
        owner: the run's own where it has one already.
        left: TPUs that may be there and cost.
    """

    api: TpuApi
    wanted: Wanted
    run_id: str
    run: RunFolder
    order: WorkOrder
    deadline: float
    attempts: int
    keep: bool
    held: str
    say: Callable[[str], None]
    lease: Lease
    timings: Timings = field(default_factory=Timings)
    stop: Stop = field(default_factory=Stop)
    owner: str = field(default_factory=new_owner)
    left: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Whoever asks to stop waits for no call of the bucket's."""
        self._brief = Patience(self.timings.call, stop=self.stop)
        self.run = RunFolder(self.run.folder.patient(self._brief))
        self.lease.folder = self.run.folder

    @property
    def _bucket(self) -> Folder:
        return self.wanted.place.bucket.patient(self._brief)

    def follow(self) -> int:
        """The stage's exit code; what may still cost is said at every end.

        Raises:
            EspalierError: no TPU could be created, or none stayed; or another launcher has the run.
        """
        self.lease.take()
        try:
            return self._follow()
        finally:
            self.lease.release()
            for name in sorted(self.left):
                dollars = self.wanted.tpu.dollars_per_hour
                self.say(
                    f"{name} may still be there and cost up to {dollars:.2f} USD an hour; "
                    f"{self.wanted.place.ends(name)} ends it."
                )

    def _follow(self) -> int:
        """As `follow`, with the run to itself."""
        number, found = self._begin()
        others = 0
        for used in range(1, self.attempts + 1):
            ended = found or self._one(number)
            if isinstance(ended, Ended):
                return ended.code
            if isinstance(ended, Asked):
                raise Interrupted(f"{ended.why}; run the same command to resume.")
            if self.stop.is_set():
                raise Interrupted(f"{ended.why}; run the same command to resume.")
            if self.held:
                raise Interrupted(f"{ended.why}; run the same command without TPU_NAME= to resume.")
            others += not ended.preempted
            if others == MAX_OTHER_FAILURES or used == self.attempts:
                raise Interrupted(
                    f"{ended.why}, and that was TPU {used} of at most {self.attempts} "
                    f"({MAX_OTHER_FAILURES} where it is not pre-emption); "
                    "run the same command to resume."
                )
            self.say(f"{ended.why}; requesting another TPU ({used + 1} of {self.attempts}).")
            number += 1
        raise AssertionError("the last attempt has an ending")

    def _begin(self) -> tuple[int, Ended | None]:
        """The number of the attempt to go on with, and its ending where it has come already."""
        before = self.run.record
        if before is None:
            return 1, None
        self.owner = before.owner or self.owner
        if before.phase != "following":
            self.clear(before)
            return before.attempt + 1, None
        tpu = TpuFolder(self._bucket, before.tpu)
        record = tpu.record
        kept = record is not None and record.kept
        self._require_here(record)
        if finished(self.run.exits(before.attempt), before.workers):
            self._note(before, Ended(0))
            self._leave(tpu, kept)
            return before.attempt, Ended(0)
        other = record is not None and record.type != self.wanted.tpu.type
        if other or before.tpu != self._name(before.attempt):
            self.run.ask_to_stop(before.attempt)
            self._leave(tpu, kept)
            return before.attempt + 1, None
        if self.api.state(before.tpu).name == "ABSENT":
            self.run.ask_to_stop(before.attempt)
            return before.attempt + 1, None
        self.left.add(before.tpu)
        self.say(f"Going on with {before.tpu}, which an earlier start has left.")
        return before.attempt, None

    def clear(self, before: RunRecord) -> None:
        """Delete the TPU of a run that has ended, where that did not succeed then.

        Raises:
            EspalierError: it does not succeed now, or the TPU is elsewhere.
        """
        tpu = TpuFolder(self._bucket, before.tpu)
        record = tpu.record
        if record and record.left and tpu.name != self.held:
            self._require_here(record)
            self._leave(tpu, kept=False)

    def _require_here(self, record: TpuRecord | None) -> None:
        """Refuse to forget a TPU in another project or zone, which may be there and cost.

        Raises:
            InputError: there is one.
        """
        here = self.wanted.place.parent
        if record and not record.gone and record.parent not in ("", here):
            project, zone = record.parent.split("/")[1::2]
            raise InputError(
                f"the run has {record.name} in {record.parent}; give PROJECT={project} and "
                f"ZONE={zone}, or delete it there first with make tpu-down NAME={record.name}."
            )

    def _one(self, number: int) -> Ended | Lost | Asked:
        """One TPU, which is gone afterwards whatever happens."""
        tpu = TpuFolder(self._bucket, self._name(number))
        record = RunRecord(
            phase="following",
            attempt=number,
            tpu=tpu.name,
            workers=self.wanted.tpu.workers,
            seen=now(),
            owner=self.owner,
            bucket=self.wanted.place.bucket.url,
        )
        given = (self.deadline, self.say, self.timings, self.stop, self.lease)
        kept = bool(self.held)
        try:
            self.run.keep(record)
            if self.held:
                tpu.give(self.order, number)
            else:
                self._create(tpu, number)
            ended = Attempt(self.api, self.run, record, *given).follow()
            kept = self._is_kept(tpu, ended)
            self._note(record, ended)
        except Displaced:
            self.left.discard(tpu.name)  # the other's to delete
            raise
        except BaseException:
            # Whatever else fails, the TPU goes first.
            self._leave(tpu, kept)
            failed = record.model_copy(update={"phase": "failed", "seen": now()})
            self._write(lambda: self.run.keep(failed))
            raise
        self._leave(tpu, kept)
        return ended

    def _name(self, number: int) -> str:
        return self.held or tpu_name(self.run_id, self.owner, number)

    def _create(self, tpu: TpuFolder, number: int) -> None:
        announced = tpu.announce(self.wanted, self.owner, kept=False)
        tpu.give(self.order, number)
        own = self.order.text(number), not self.keep
        script = startup_script(tpu.folder, self.wanted, self.timings, *own)
        request = creation(self.wanted, script, announced, self.deadline, self.run_id)
        self.left.add(tpu.name)
        if self.api.create(request):
            self.say(f"Requested {tpu.name}.")

    def _is_kept(self, tpu: TpuFolder, ended: Ended | Lost | Asked) -> bool:
        """A TPU that is of no more use is deleted even where its user wanted to keep it."""
        if isinstance(ended, Lost) or not (self.keep or self.held):
            return False
        return not self.api.state(tpu.name).lost

    def _note(self, record: RunRecord, ended: Ended | Lost | Asked) -> None:
        """How it came out; where that cannot be written, the next start finds out again."""
        if isinstance(ended, Ended):
            phase, code = ("failed" if ended.code else "done"), ended.code
            update = {"phase": phase, "code": code, "seen": now()}
        elif isinstance(ended, Asked):
            update = {"phase": "stopped", "code": Interrupted.exit_code, "seen": now()}
        else:
            update = {"phase": "failed", "seen": now()}
        self._write(lambda: self.run.keep(record.model_copy(update=update)))

    def _write(self, note: Callable[[], None]) -> None:
        """Write down what the next start can find out as well: that it fails is only said."""
        try:
            note()
        except EnvironmentFailure as error:
            self.say(f"Not written down, since {error}")

    def _owner_of(self, tpu: TpuFolder) -> str:
        """The run's own, known whatever has become of the bucket; a held TPU has its own."""
        if tpu.name != self.held:
            return self.owner
        record = tpu.record
        return record.owner if record else ""

    def _leave(self, tpu: TpuFolder, kept: bool) -> None:
        if kept:
            if record := tpu.record:
                tpu.keep(record.model_copy(update={"kept": True}))
            self.left.discard(tpu.name)
            self.say(f"{tpu.name} is kept, and costs; make tpu-down NAME={tpu.name} deletes it.")
            return
        self.left.add(tpu.name)
        try:
            there = self.api.delete(tpu.name, self._owner_of(tpu))
        except EspalierError as error:
            raise EnvironmentFailure(
                f"{tpu.name} may still be there and cost, since it could not be deleted "
                f"({str(error).rstrip('.')}); try {self.wanted.place.ends(tpu.name)}."
            ) from None
        self.left.discard(tpu.name)
        if there:
            self.say(f"Deleted {tpu.name}.")
        self._write(tpu.deleted)
