"""Every TPU of this tool in a project and zone: what it is, what it costs, whose it is, its end."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from espalier.errors import InputError
from espalier.host.runtimes.tpu_vm.client import State, TpuApi
from espalier.host.runtimes.tpu_vm.folder import Folder
from espalier.host.runtimes.tpu_vm.options import Location
from espalier.host.runtimes.tpu_vm.records import RunRecord, TpuRecord
from espalier.host.runtimes.tpu_vm.request import BUCKET, OWNER
from espalier.host.runtimes.tpu_vm.run_folder import RunFolder
from espalier.host.runtimes.tpu_vm.tpu_folder import TpuFolder

LAUNCHER_TIMEOUT_MINUTES = 15
"""Minutes after which a launcher, or a worker, that was not seen does not come back."""
WAITING = ("CREATING", "ACCEPTED", "PROVISIONING", "WAITING_FOR_RESOURCES")
"""States in which it is asked for, and will cost as soon as there is capacity."""
DEAD = ("SUSPENDING", "SUSPENDED", "FAILED", "PREEMPTED")
"""States in which a queued resource does nothing, and takes quota."""
STUCK_HOURS = 1
"""After which one that is being deleted is deleted again."""


@dataclass(frozen=True)
class Member:
    """One TPU, as the API and the bucket know it.

    Attributes:
        hours: since it was asked for: the longest that it can have been paid for.
        ours: it has this bucket's label; another's is shown, and left to them.
        record: None where it was lost, or is another owner's.
        silent: minutes since the run's launcher was seen; None where none was.
        over: the run's workers make nothing any more; the TPU only waits for the launcher.
    """

    name: str
    type: str
    state: str
    hours: float
    bucket: str
    ours: bool
    record: TpuRecord | None
    run: RunRecord | None
    silent: float | None = None
    over: bool = False

    @property
    def cost(self) -> str:
        """In dollars, at list price on demand; waiting costs nothing."""
        if self.record is None:
            return "unknown"
        if self.state in WAITING:
            return "0"
        return f"at most {self.hours * self.record.dollars_per_hour:.2f} USD"

    @property
    def use(self) -> str:
        """What for: a run that is followed, its user's, unknown, or nothing any more."""
        if not self.ours:
            return f"of another BUCKET ({self.bucket or 'without a label'}); only that deletes it"
        if self.record is None:
            return "its record is lost; make tpu-reap FORCE=1 deletes it"
        if self.run and self.run.phase == "following" and self.run.tpu == self.name:
            silent = self.silent is None or self.silent > LAUNCHER_TIMEOUT_MINUTES
            if silent and (self.over or self.state in WAITING):
                return ""
            seen = "not seen" if self.silent is None else f"seen {self.silent:.0f} min ago"
            return f"runs {self.run_name} (its launcher was {seen})"
        return "kept for its user" if self.record.kept else ""

    @property
    def run_name(self) -> str:
        return self.record.folder.rpartition("/")[2] if self.record else ""

    @property
    def reapable(self) -> bool:
        """Ours, and dead, orphaned, or stuck in its deletion."""
        if not self.ours or self.record is None:
            return False
        if self.state == "DELETING":
            return self.hours > STUCK_HOURS
        return self.state in DEAD or not self.use


@dataclass(frozen=True)
class Fleet:
    """The TPUs of one place."""

    place: Location
    api: TpuApi

    def members(self) -> list[Member]:
        """All of this tool's there, those of other buckets too."""
        return [member for member, _ in self._owned()]

    def down(self, name: str) -> bool:
        """Delete one; its launcher is told that this was wanted. False where there is none.

        Raises:
            InputError: it is not of this bucket.
        """
        record = TpuFolder(self.place.bucket, name).record
        if record is None:
            if self.api.state(name).name == "ABSENT":
                return False
            raise InputError(
                f"NAME={name} is not known in {self.place.bucket.url}/tpus, so it is another's; "
                "give the BUCKET that it was made with, as make tpu-status shows it."
            )
        if record.folder:
            run = RunFolder(Folder(record.folder))
            if (known := run.record) and known.tpu == name and known.phase == "following":
                run.ask_to_stop(known.attempt)
        there = self.api.delete(name, record.owner)
        TpuFolder(self.place.bucket, name).deleted()
        return there

    def reap(self, *, everything: bool) -> Iterator[Member]:
        """Delete what no live run holds, or all of this bucket; the members as they are gone."""
        for member, owner in self._owned():
            if not (member.ours and (everything or member.reapable)):
                continue
            if everything and member.record:
                self.down(member.name)
            else:
                self.api.delete(member.name, owner)
            TpuFolder(self.place.bucket, member.name).forget()
            yield member

    def _owned(self) -> list[tuple[Member, str]]:
        """Members, and the owner that each one's label names."""
        resources = self.api.ours()
        now = self.place.bucket.now() if resources else None
        return [(self._member(each, now), _label(each, OWNER)) for each in resources if now]

    def log(self, name: str, worker: int) -> str | None:
        """The last lines that a worker of the TPU's run has written."""
        record = TpuFolder(self.place.bucket, name).record
        return RunFolder(Folder(record.folder)).log(worker) if record and record.folder else None

    def _member(self, resource: Any, now: datetime) -> Member:
        name, owner = resource.name.rpartition("/")[2], _label(resource, OWNER)
        ours = self.api.is_of_bucket(resource)
        record = TpuFolder(self.place.bucket, name).record if ours else None
        record = record if record and self.api.is_of(resource, record.owner) else None
        folder = RunFolder(Folder(record.folder)) if record and record.folder else None
        run, seen = (folder.record, folder.launcher_seen()) if folder else (None, None)
        state: State = self.api.state_of(resource)
        return Member(
            name=name,
            type=resource.tpu.node_spec[0].node.accelerator_type,
            state=state.name,
            hours=(now - resource.create_time).total_seconds() / 3600,
            bucket=_label(resource, BUCKET),
            ours=ours and bool(owner),
            record=record,
            run=run,
            silent=(now - seen).total_seconds() / 60 if seen else None,
            over=bool(folder and run and state.name == "ACTIVE" and _is_over(folder, run, now)),
        )


def _is_over(folder: RunFolder, run: RunRecord, now: datetime) -> bool:
    """Whether a worker has failed, for which the others wait in vain, or none reports any more."""
    exits = folder.exits(run.attempt)
    if any(ended.code for ended in exits.values()):
        return True
    times, beats = folder.reported(), folder.heartbeats(run.attempt)
    ages = [(now - times[n]).total_seconds() for n in beats if n not in exits and n in times]
    return all(age > LAUNCHER_TIMEOUT_MINUTES * 60 for age in ages)


def _label(resource: Any, name: str) -> str:
    labels = dict(resource.tpu.node_spec[0].node.labels) if resource.tpu.node_spec else {}
    return str(labels.get(name, ""))
