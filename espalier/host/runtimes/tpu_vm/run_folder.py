"""runs/<run id> in the bucket: what a run is made of, whichever TPU it is on."""

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256

from espalier.errors import InputError
from espalier.host.runtimes.tpu_vm import lease
from espalier.host.runtimes.tpu_vm.folder import Folder
from espalier.host.runtimes.tpu_vm.names import Listed, parse_list
from espalier.host.runtimes.tpu_vm.records import Exit, Heartbeat, Kind, RunRecord, parsed

RECORD = "launch.json"


class RunFolder:
    """A run's objects by what they mean."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    @property
    def record(self) -> RunRecord | None:
        return parsed(RunRecord, self.folder.read(RECORD))

    def keep(self, record: RunRecord) -> None:
        self.folder.write(RECORD, record.model_dump_json(indent=1))

    def begin_again(self, record: RunRecord) -> None:
        """Remove all but the count of attempts: a number that hosts know is never used again."""
        self.folder.clear()
        self.keep(record.model_copy(update={"phase": "failed"}))

    def heartbeats(self, attempt: int) -> dict[int, Heartbeat]:
        """The last report of each worker of that attempt."""
        found = self._by_worker(Heartbeat, "workers")
        return {number: beat for number, beat in found.items() if beat.attempt == attempt}

    def exits(self, attempt: int) -> dict[int, Exit]:
        """The workers of that attempt that have ended, and how."""
        return self._by_worker(Exit, f"exits/{attempt}")

    def launcher_seen(self) -> datetime | None:
        """When a launcher that follows it last showed so, by the bucket's clock."""
        return self.folder.written(lease.NAME)

    def reported(self) -> dict[int, datetime]:
        """When each worker's last report came, by the bucket's clock."""
        times = self.folder.below("workers").times()
        return {int(n): at for name, at in times.items() if (n := name[:-5]).isdecimal()}

    def listed(self, attempt: int) -> Mapping[str, Listed]:
        """The files of the result, as the first worker of that attempt has recorded them.

        Raises:
            InputError: there is no such list, or another than the worker has recorded.
        """
        first = self.exits(attempt).get(0)
        text = self.folder.read(f"listed/{attempt}")
        where = f"{self.folder.url}/listed/{attempt}"
        if first is None or text is None or sha256(text.encode()).hexdigest() != first.listed:
            raise InputError(
                f"{where} is not the list of files that worker 0 has recorded; FORCE=1 makes the "
                "result anew."
            )
        return parse_list(text, where)

    def log(self, worker: int) -> str | None:
        return self.folder.read(f"logs/{worker}.log")

    def ask_to_stop(self, attempt: int) -> None:
        self.folder.write(f"stop/{attempt}", "stop\n")

    def asked_to_stop(self, attempt: int) -> bool:
        return self.folder.read(f"stop/{attempt}") is not None

    def _by_worker(self, kind: type[Kind], name: str) -> dict[int, Kind]:
        """The records `<n>.json`; whatever else lies there is no worker's."""
        found = {}
        for file, text in self.folder.below(name).texts().items():
            number, _, suffix = file.partition(".")
            record = parsed(kind, text)
            if number.isdecimal() and suffix == "json" and record:
                found[int(number)] = record
        return found
