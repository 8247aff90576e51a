"""runs/<run id> in the bucket: what a run is made of, whichever TPU it is on."""

from espalier.runtimes.tpu_vm.folder import Folder
from espalier.runtimes.tpu_vm.records import Exit, Heartbeat, RunRecord, parsed

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
        texts = self.folder.below("workers").texts()
        found = {_number(name): parsed(Heartbeat, text) for name, text in texts.items()}
        return {n: beat for n, beat in found.items() if beat and beat.attempt == attempt}

    def exits(self, attempt: int) -> dict[int, Exit]:
        """The workers of that attempt that have ended, and how."""
        texts = self.folder.below(f"exits/{attempt}").texts()
        found = {_number(name): parsed(Exit, text) for name, text in texts.items()}
        return {n: ended for n, ended in found.items() if ended}

    def log(self, worker: int) -> str | None:
        return self.folder.read(f"logs/{worker}.log")

    def ask_to_stop(self, attempt: int) -> None:
        self.folder.write(f"stop/{attempt}", "stop\n")

    def asked_to_stop(self, attempt: int) -> bool:
        return self.folder.read(f"stop/{attempt}") is not None


def _number(name: str) -> int:
    stem = name.partition(".")[0]
    return int(stem) if stem.isdigit() else -1
