"""A launcher in a process of its own, for the tests that kill it: `tests.tpu.launch BUCKET`."""

import sys

from espalier.hardware.tpus import tpu_named
from espalier.host.runtimes.tpu_vm.client import TpuApi
from espalier.host.runtimes.tpu_vm.folder import Folder
from espalier.host.runtimes.tpu_vm.launcher import Launcher
from espalier.host.runtimes.tpu_vm.lease import Lease
from espalier.host.runtimes.tpu_vm.options import Location, Wanted
from espalier.host.runtimes.tpu_vm.run_folder import RunFolder
from espalier.host.runtimes.tpu_vm.startup import WorkOrder
from tests.tpu.conftest import IMAGE, OWNER, QUICK

if __name__ == "__main__":
    bucket = Folder(sys.argv[1])
    place = Location("project", "us-west4-a", bucket)
    run = RunFolder(bucket.below("runs/run-1"))
    sys.exit(
        Launcher(
            api=TpuApi(place, QUICK),
            wanted=Wanted(tpu_named("v5litepod-16"), place, spot=True),
            run_id="run-1",
            run=run,
            order=WorkOrder(run.folder.url, IMAGE, {}, {}),
            deadline=5,
            attempts=20,
            keep=False,
            held="",
            say=lambda text: None,
            lease=Lease(run.folder, QUICK.lease),
            owner=OWNER,
            timings=QUICK,
        ).follow()
    )
