"""RUNTIME=tpu-vm: a stage on a slice that is made for it, its result brought back."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import disk_usage

from espalier.contract.discovery import stage_named
from espalier.contract.made import MADE
from espalier.contract.manifest import RUN_FOLDER, ImageRecord
from espalier.contract.measure import show_size
from espalier.contract.processes import COMPILED, Processes
from espalier.errors import InputError
from espalier.hardware.tpus import tpu_named
from espalier.host.images import load_image
from espalier.host.runtimes.base import Launch, Runtime, quiet_environment
from espalier.host.runtimes.local import LocalRuntime
from espalier.host.runtimes.mounts import container_path
from espalier.host.runtimes.tpu_vm.client import TpuApi
from espalier.host.runtimes.tpu_vm.launcher import Launcher
from espalier.host.runtimes.tpu_vm.lease import Lease
from espalier.host.runtimes.tpu_vm.options import Wanted, image_reference
from espalier.host.runtimes.tpu_vm.records import RunRecord
from espalier.host.runtimes.tpu_vm.request import creation, shown, tpu_name
from espalier.host.runtimes.tpu_vm.run_folder import RunFolder
from espalier.host.runtimes.tpu_vm.startup import WorkOrder, startup_script
from espalier.host.runtimes.tpu_vm.stops import Stop, stop_event
from espalier.host.runtimes.tpu_vm.timings import Timings
from espalier.host.runtimes.tpu_vm.tpu_folder import TpuFolder
from espalier.host.runtimes.tpu_vm.upload import spec_of, upload_inputs, upload_run
from espalier.host.settings import Settings

TERMINAL = ("ESPALIER_TERMINAL", "COLUMNS")
"""Of the launcher's own terminal, which a log is not."""


@dataclass(frozen=True)
class TpuVmRuntime:
    """The stage's container on every worker of the TPU that the settings want."""

    settings: Settings
    timings: Timings = field(default_factory=Timings)
    nearby: Runtime = field(default_factory=LocalRuntime)
    name: str = "tpu-vm"
    network: bool = False
    cores: None = None

    def image(self, name: str, device: str, build: bool) -> ImageRecord:
        """TPU_IMAGE, which somebody has pushed; the lock is the checkout's own."""
        reference = image_reference(self.settings)
        digest = reference.partition("@")[2]
        lock = load_image(name).lock_hash(device)
        return ImageRecord(name=name, lock=lock, reference=reference, digest=digest)

    def seen_path(self, role: str, path: Path) -> str:
        return container_path(role, path)

    def argv(self, launch: Launch) -> list[str]:
        """The command that makes it, for the record: the API is called, not a program."""
        wanted = self.wanted()
        return [
            *("tpu-vm", wanted.tpu.type, wanted.place.parent),
            *(f"{wanted.place.bucket.url}/runs/{launch.run_id}", image_reference(self.settings)),
        ]

    def rows(self, launch: Launch) -> dict[str, str]:
        """The TPU, the request for it, and the script that it boots with; nothing is called."""
        wanted, name = self.wanted(), self.settings.tpu_name
        if name:
            return {"TPU": f"{name}, which is there already"}
        name = tpu_name(launch.run_id, "0" * 8, 1)  # a real one is random
        tpu = TpuFolder(wanted.place.bucket, name)
        ends = not self.settings.keep_tpu
        script = startup_script(tpu.folder, wanted, self.timings, ends=ends)
        record = tpu.planned(wanted, "0" * 8, kept=False)
        seconds = self.settings.tpu_deadline * 60
        request = shown(creation(wanted, script, record, seconds, launch.run_id))
        return {
            "TPU": f"{wanted.describe()} {wanted.account_warning}".strip(),
            "request": request,
            "start-up script": script,
        }

    def run(self, launch: Launch) -> int:
        """Copy what it needs, follow it to its end, and bring the result into the output.

        Raises:
            EspalierError: no TPU could be created, or none stayed.
        """
        wanted = self.wanted()
        spec = spec_of(launch)
        if wanted.tpu.workers > 1 and not stage_named(spec.stage).join:
            raise InputError(
                f"{spec.stage} runs on one machine, and TPU={wanted.tpu.type} has "
                f"{wanted.tpu.workers}; take one with a single worker, such as v5litepod-8."
            )
        bucket = wanted.place.bucket
        run = RunFolder(bucket.below(f"runs/{launch.run_id}"))
        lease = Lease(run.folder, self.timings.lease)
        lease.take()
        try:
            if code := self._made(launch, wanted, lease):
                return code
            self._bring_back(launch, run)
        finally:
            lease.release()
        return 0

    def _made(self, launch: Launch, wanted: Wanted, lease: Lease) -> int:
        """The stage's exit code; where it is 0 the result is in the bucket."""
        bucket, spec, run = wanted.place.bucket, spec_of(launch), RunFolder(lease.folder)
        if record := self._is_there(run):
            self._say(f"{run.folder.url} holds the result already.")
            order = self.order(launch, wanted, run, {})
            self._launcher(launch, wanted, order, lease, Stop()).clear(record)
            return 0
        if held := self.settings.tpu_name:
            _require_free(TpuApi(wanted.place, self.timings), TpuFolder(bucket, held), run)
        else:
            self._say(f"{wanted.describe()} {wanted.account_warning}".strip())
        urls = upload_inputs(bucket, launch, spec.input_records, self._say)
        code, of_run = upload_run(run.folder, launch)
        order = replace(self.order(launch, wanted, run, urls), code=code, spec=of_run)
        with stop_event() as stop:
            return self._launcher(launch, wanted, order, lease, stop).follow()

    def _bring_back(self, launch: Launch, run: RunFolder) -> None:
        """Copy the result, as the worker that made it has recorded it, and no other file.

        Raises:
            InputError: it is not what was recorded, or there is no room for it.
        """
        record = run.record
        listed = run.listed(record.attempt if record else 0)
        size, free = sum(file.size for file in listed.values()), disk_usage(launch.output).free
        if size > free:
            raise InputError(
                f"the result is {show_size(size)}, and {launch.output} has room for "
                f"{show_size(free)}; make room and run the same command again."
            )
        run.folder.below("output").download(launch.output, listed, last=f"{RUN_FOLDER}/{MADE}")
        run.folder.remove("state")

    def order(
        self, launch: Launch, wanted: Wanted, run: RunFolder, urls: dict[str, str]
    ) -> WorkOrder:
        """What the workers are told; what differs between them they find out themselves."""
        spread = replace(launch, processes=Processes(wanted.tpu.workers, 1))
        environment = {**quiet_environment(spread), "TQDM_DISABLE": "1"}
        state = {"ESPALIER_STATE": f"{run.folder.url}/state"}
        state[COMPILED] = f"{wanted.place.bucket.url}/cache/xla"
        kept = {name: value for name, value in environment.items() if name not in TERMINAL}
        return WorkOrder(run.folder.url, image_reference(self.settings), urls, {**kept, **state})

    def wanted(self) -> Wanted:
        """The TPU and its place, as the settings have it, or as the TPU is that they name."""
        held = self.settings.tpu_name
        if not held:
            return Wanted.of(self.settings)
        settings = self.settings.model_copy(update={"tpu": self.settings.tpu or "v5litepod-1"})
        wanted = Wanted.of(settings)
        record = TpuFolder(wanted.place.bucket, held).record
        if record is None:
            raise InputError(f"TPU_NAME={held} is not known in {wanted.place.bucket.url}/tpus.")
        return replace(wanted, tpu=tpu_named(record.type), spot=record.spot)

    def _is_there(self, run: RunFolder) -> RunRecord | None:
        """An earlier start's record of having finished it; FORCE=1 removes what it has left."""
        record = run.record
        if record and record.phase != "following" and self.settings.force:
            run.begin_again(record)
            return None
        return record if record and record.phase == "done" else None

    def _launcher(
        self,
        launch: Launch,
        wanted: Wanted,
        order: WorkOrder,
        lease: Lease,
        stop: Stop,
    ) -> Launcher:
        return Launcher(
            api=TpuApi(wanted.place, self.timings, stop),
            wanted=wanted,
            run_id=launch.run_id,
            run=RunFolder(lease.folder),
            order=order,
            deadline=self.settings.tpu_deadline * 60,
            attempts=self.settings.tpu_attempts,
            keep=self.settings.keep_tpu,
            held=self.settings.tpu_name or "",
            say=self._say,
            lease=lease,
            timings=self.timings,
            stop=stop,
        )

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def _require_free(api: TpuApi, tpu: TpuFolder, run: RunFolder) -> None:
    """Refuse a TPU that is not there, or that works for another run; else it is this one's.

    Raises:
        InputError: it is so, also where another run has come first by a moment.
    """
    if api.state(tpu.name).lost:
        raise InputError(f"TPU_NAME={tpu.name} is not there any more; see make tpu-status.")
    record, version = tpu.version
    if record and record.folder and record.folder != run.folder.url:
        other = RunFolder(type(run.folder)(record.folder)).record
        if other and other.phase == "following" and other.tpu == tpu.name:
            raise InputError(f"TPU_NAME={tpu.name} works for {record.folder}; take another.")
    if record and not tpu.claim(record, version, run.folder.url):
        raise InputError(f"TPU_NAME={tpu.name} was taken by another run just now; take another.")
