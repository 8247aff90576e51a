"""tpus/<name> in the bucket: what is known of a TPU, and the order that it waits for."""

from espalier.errors import InputError
from espalier.host.runtimes.tpu_vm.folder import Folder
from espalier.host.runtimes.tpu_vm.options import Wanted
from espalier.host.runtimes.tpu_vm.records import TpuRecord, now, parsed
from espalier.host.runtimes.tpu_vm.startup import ORDER, WorkOrder

RECORD = "tpu.json"


class TpuFolder:
    """A TPU's objects by what they mean."""

    def __init__(self, bucket: Folder, name: str) -> None:
        self.name = name
        self.folder = bucket.below(f"tpus/{name}")

    @property
    def record(self) -> TpuRecord | None:
        return self.version[0]

    @property
    def version(self) -> tuple[TpuRecord | None, str]:
        """The record, and which version of it that is."""
        text, version = self.folder.version(RECORD)
        return parsed(TpuRecord, text), version

    def claim(self, record: TpuRecord, version: str, run: str) -> bool:
        """Note that it is given to a run; False where that version is not the last any more."""
        text = record.model_copy(update={"folder": run}).model_dump_json(indent=1)
        return self.folder.replace(RECORD, text, version)

    def keep(self, record: TpuRecord) -> None:
        self.folder.write(RECORD, record.model_dump_json(indent=1))

    def announce(self, wanted: Wanted, owner: str, *, kept: bool) -> TpuRecord:
        """Write down what is about to be asked for, so that nothing can be there unknown.

        Raises:
            InputError: another command has done so for the same name.
        """
        before, version = self.version
        if before and not before.gone and (before.owner == owner or (kept and before.kept)):
            return before
        if before and not before.gone:
            raise self._taken()
        record = self.planned(wanted, owner, kept=kept)
        if not self.folder.replace(RECORD, record.model_dump_json(indent=1), version):
            raise self._taken()
        return record

    def planned(self, wanted: Wanted, owner: str, *, kept: bool) -> TpuRecord:
        """The record of a TPU that is not there yet."""
        return TpuRecord(
            name=self.name,
            type=wanted.tpu.type,
            spot=wanted.spot,
            workers=wanted.tpu.workers,
            dollars_per_hour=wanted.tpu.dollars_per_hour,
            created=now(),
            parent=wanted.place.parent,
            owner=owner,
            kept=kept,
        )

    def _taken(self) -> InputError:
        return InputError(
            f"{self.name} is asked for by another command just now; see make tpu-status, or "
            "choose another name."
        )

    def give(self, order: WorkOrder, attempt: int) -> None:
        """Let the TPU's workers begin, now or as soon as they have booted."""
        self.folder.write(ORDER, order.text(attempt))
        if record := self.record:
            self.keep(record.model_copy(update={"folder": order.run}))

    def deleted(self) -> None:
        """Note that it is gone; where its run was stays known, for the logs."""
        if record := self.record:
            self.keep(record.model_copy(update={"gone": True}))

    def forget(self) -> None:
        self.folder.clear()
