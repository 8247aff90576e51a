"""The script that a TPU VM boots with, and the order that it waits for."""

import hashlib
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from espalier.errors import InputError
from espalier.host.runtimes.tpu_vm.folder import Folder
from espalier.host.runtimes.tpu_vm.options import Wanted
from espalier.host.runtimes.tpu_vm.timings import Timings

BODY = Path(__file__).with_name("startup.sh")
MOST_BYTES = 256 << 10
"""Of a value in an instance's metadata."""
ORDER = "work"


def startup_script(
    folder: Folder, wanted: Wanted, timings: Timings, order: str = "", ends: bool = False
) -> str:
    """The script of the TPU whose folder it is; no secret is in it: all on the VM can read it.

    Workers take no other order than `order`, where it is known as the TPU is asked for. A TPU that
    `ends` is deleted by its first worker once its work is over and no launcher is seen any more.
    """
    shebang, _, body = BODY.read_text().partition("\n")
    variables = {
        "FOLDER": folder.url,
        "TPU": folder.url.rpartition("/")[2],
        "PROJECT": wanted.place.project,
        "ZONE": wanted.place.zone,
        "WORKERS": wanted.tpu.workers,
        "ORDER": hashlib.sha256(order.encode()).hexdigest() if order else "",
        "ABANDONED": math.ceil(timings.abandoned) if ends else 0,
        "OUTAGE": math.ceil(timings.abandoned),
        "PRIVILEGED": int(wanted.privileged),
        "HEARTBEAT": f"{timings.heartbeat:g}",
        "BARRIER": math.ceil(timings.barrier),
        "PAUSE": math.ceil(timings.attempt),
    }
    lines = [f"{name}={shlex.quote(str(value))}" for name, value in variables.items()]
    return "\n".join([shebang, *lines, body])


@dataclass(frozen=True)
class WorkOrder:
    """What a TPU is to run.

    Attributes:
        inputs: role to the folder in the bucket that is mounted as /in/<role>.
        code, spec: the sha256 of the packed code and of run.json, which the workers go by.
    """

    run: str
    image: str
    inputs: Mapping[str, str]
    environment: Mapping[str, str]
    code: str = ""
    spec: str = ""

    def text(self, attempt: int) -> str:
        """As the script reads it: a line for each thing.

        Raises:
            InputError: a value has several lines.
        """
        lines = [f"run={self.run}", f"attempt={attempt}", f"image={self.image}"]
        lines += [f"code={self.code}", f"spec={self.spec}"]
        lines += [f"input={role} {url}" for role, url in self.inputs.items()]
        lines += [f"env={name}={value}" for name, value in self.environment.items()]
        return "\n".join(_one_line(lines)) + "\n"


def _one_line(lines: Sequence[str]) -> Sequence[str]:
    for line in lines:
        if not line.isprintable():
            raise InputError(f"{line.partition('=')[0]} has more than one line for a TPU VM.")
    return lines
