"""Every TPU of this tool in a project and zone: what it is, what it costs, whose it is, its end."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from espalier.host.runtimes.tpu_vm.client import TpuApi
from espalier.host.runtimes.tpu_vm.folder import Folder
from espalier.host.runtimes.tpu_vm.options import Location
from espalier.host.runtimes.tpu_vm.records import RunRecord, TpuRecord, now
from espalier.host.runtimes.tpu_vm.run_folder import RunFolder
from espalier.host.runtimes.tpu_vm.tpu_folder import TpuFolder

LAUNCHER_TIMEOUT_MINUTES = 15
"""Minutes after which a launcher, or a worker, that was not seen does not come back."""
DEAD = ("SUSPENDING", "SUSPENDED", "FAILED")
"""States in which a queued resource does nothing, and takes quota."""


@dataclass(frozen=True)
class Member:
    """One TPU, as the API and the bucket know it.

    Attributes:
        record: None where another bucket has it, or where it was lost.
        over: the run's workers make nothing any more; the TPU only waits for the launcher.
    """

    name: str
    type: str
    state: str
    created: datetime
    record: TpuRecord | None
    run: RunRecord | None
    over: bool = False

    @property
    def hours(self) -> float:
        """Since it was asked for: the longest that it can have been paid for."""
        return (now() - self.created).total_seconds() / 3600

    @property
    def cost(self) -> str:
        """In dollars, at list price on demand; waiting costs nothing."""
        if self.record is None or self.state not in ("ACTIVE", *DEAD):
            return "0" if self.record else "unknown"
        return f"at most {self.hours * self.record.dollars_per_hour:.2f} USD"

    @property
    def use(self) -> str:
        """What for: a run that is followed, its user's, unknown, or nothing any more."""
        if self.record is None:
            return "of another BUCKET, or its record is lost; make tpu-down deletes it"
        if self.run and self.run.phase == "following" and self.run.tpu == self.name:
            minutes = (now() - self.run.seen).total_seconds() / 60
            if self.over and minutes > LAUNCHER_TIMEOUT_MINUTES:
                return ""
            return f"runs {self.run_name} (its launcher was seen {minutes:.0f} min ago)"
        return "kept for its user" if self.record.kept else ""

    @property
    def run_name(self) -> str:
        return self.record.folder.rpartition("/")[2] if self.record else ""

    @property
    def reapable(self) -> bool:
        """Dead, or orphaned."""
        return self.state in DEAD or not self.use


@dataclass(frozen=True)
class Fleet:
    """The TPUs of one place."""

    place: Location
    api: TpuApi

    def members(self) -> Iterator[Member]:
        for resource in self.api.ours():
            yield self._member(resource)

    def down(self, name: str) -> bool:
        """Delete one; its launcher is told that this was wanted. False where there is none."""
        record = TpuFolder(self.place.bucket, name).record
        if record and record.folder:
            run = RunFolder(Folder(record.folder))
            if (known := run.record) and known.tpu == name and known.phase == "following":
                run.ask_to_stop(known.attempt)
        there = self.api.delete(name)
        TpuFolder(self.place.bucket, name).deleted()
        return there

    def reap(self, *, everything: bool) -> Iterator[Member]:
        """Delete what no live run holds, or all of it; the members as they are gone."""
        for member in list(self.members()):
            if everything or member.reapable:
                self.down(member.name) if everything else self.api.delete(member.name)
                TpuFolder(self.place.bucket, member.name).forget()
                yield member

    def log(self, name: str, worker: int) -> str | None:
        """The last lines that a worker of the TPU's run has written."""
        record = TpuFolder(self.place.bucket, name).record
        return RunFolder(Folder(record.folder)).log(worker) if record and record.folder else None

    def _member(self, resource: Any) -> Member:
        name = resource.name.rpartition("/")[2]
        record = TpuFolder(self.place.bucket, name).record
        folder = RunFolder(Folder(record.folder)) if record and record.folder else None
        run = folder.record if folder else None
        state = resource.state.state.name
        return Member(
            name=name,
            type=resource.tpu.node_spec[0].node.accelerator_type,
            state=state,
            created=resource.create_time,
            record=record,
            run=run,
            over=bool(folder and run and state == "ACTIVE" and _is_over(folder, run)),
        )


def _is_over(folder: RunFolder, run: RunRecord) -> bool:
    """Whether a worker has failed, for which the others wait in vain, or none reports any more."""
    exits = folder.exits(run.attempt)
    if any(ended.code for ended in exits.values()):
        return True
    beats = folder.heartbeats(run.attempt)
    ages = [(now() - beat.time).total_seconds() for n, beat in beats.items() if n not in exits]
    return all(age > LAUNCHER_TIMEOUT_MINUTES * 60 for age in ages)
