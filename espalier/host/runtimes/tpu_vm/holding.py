"""`make tpu-up`: a TPU without a run, held until its user deletes it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from espalier.errors import EnvironmentFailure, EspalierError, InputError
from espalier.host.runtimes.tpu_vm.client import TpuApi, no_capacity, refused
from espalier.host.runtimes.tpu_vm.options import Wanted
from espalier.host.runtimes.tpu_vm.records import TpuRecord
from espalier.host.runtimes.tpu_vm.request import LONGEST, creation, new_owner, valid_name
from espalier.host.runtimes.tpu_vm.startup import startup_script
from espalier.host.runtimes.tpu_vm.timings import Timings
from espalier.host.runtimes.tpu_vm.tpu_folder import TpuFolder


@dataclass(frozen=True)
class Holding:
    """A TPU whose workers wait for the order of a run that names it (TPU_NAME)."""

    api: TpuApi
    wanted: Wanted
    name: str
    deadline: float
    say: Callable[[str], None]
    timings: Timings = field(default_factory=Timings)

    def __post_init__(self) -> None:
        if not valid_name(self.name):
            raise InputError(
                f"NAME={self.name} is not a valid TPU name: give lower-case letters, digits and "
                f"hyphens, {LONGEST} at most, a letter first."
            )

    @property
    def script(self) -> str:
        return startup_script(self._folder.folder, self.wanted, self.timings)

    @property
    def planned(self) -> TpuRecord:
        """Its record, for a request that is only shown."""
        return self._folder.planned(self.wanted, "0" * 8, kept=True)

    def up(self) -> None:
        """Create it, unless it is there, and wait until it is active; none is left otherwise.

        Raises:
            EnvironmentFailure: there was no capacity in time, or no quota.
            InputError: the name is another TPU's.
            KeyboardInterrupt: asked to stop.
        """
        before = self._folder.record
        mine = before if before and before.kept and not before.gone else None
        if not mine and self.api.state(self.name).name != "ABSENT":
            raise InputError(f"NAME={self.name} is another's TPU in this zone; choose another.")
        if mine and mine.type != self.wanted.tpu.type:
            raise InputError(
                f"NAME={self.name} is a {mine.type} already; give make tpu-down NAME={self.name} "
                "first, or another NAME."
            )
        if mine and self.api.state(self.name).name == "ACTIVE":
            return
        record = self._folder.announce(self.wanted, new_owner(), kept=True)
        active = False
        try:
            if self.api.create(creation(self.wanted, self.script, record, self.deadline)):
                self.say(f"Requested {self.name}.")
            self._wait()
            active = True
        finally:
            if not active:
                self._undo(record)

    def _undo(self, record: TpuRecord) -> None:
        """Delete it; where that fails it is said what may cost.

        Raises:
            EnvironmentFailure: it may be there yet.
        """
        try:
            there = self.api.delete(self.name, record.owner)
        except EspalierError as error:
            raise EnvironmentFailure(
                f"{self.name} may still be there and cost, since it could not be deleted "
                f"({str(error).rstrip('.')}); try {self.wanted.place.ends(self.name)}."
            ) from None
        if there:
            self.say(f"Deleted {self.name}.")
        self._folder.deleted()

    @property
    def _folder(self) -> TpuFolder:
        return TpuFolder(self.wanted.place.bucket, self.name)

    def _wait(self) -> None:
        began, said = time.monotonic(), ""
        while (state := self.api.state(self.name)).name != "ACTIVE":
            if state.lost:
                reason = state.reason or state.name.lower()
                raise refused(reason, self.wanted.place) or EnvironmentFailure(
                    f"{self.name} could not be created: {reason}; try again, or another ZONE."
                )
            if time.monotonic() - began > self.deadline:
                raise no_capacity(self.name, state.name, self.deadline)
            if state.name != said:
                said = state.name
                self.say(f"{self.name} is {said.lower().replace('_', ' ')}.")
            time.sleep(self.timings.poll)
