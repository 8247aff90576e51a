"""The script that a TPU VM boots with, and the order that it waits for."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from espalier.errors import InputError
from espalier.host.runtimes.tpu_vm.folder import Folder
from espalier.host.runtimes.tpu_vm.timings import Timings

BODY = Path(__file__).with_name("startup.sh")
MOST_BYTES = 256 << 10
"""Of a value in an instance's metadata."""
ORDER = "work"


def startup_script(folder: Folder, workers: int, timings: Timings) -> str:
    """The script of the TPU whose folder it is; no secret is in it: all on the VM can read it."""
    shebang, _, body = BODY.read_text().partition("\n")
    variables = {
        "FOLDER": folder.url,
        "WORKERS": workers,
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
    """

    run: str
    image: str
    inputs: Mapping[str, str]
    environment: Mapping[str, str]

    def text(self, attempt: int) -> str:
        """As the script reads it: a line for each thing.

        Raises:
            InputError: a value has several lines.
        """
        lines = [f"run={self.run}", f"attempt={attempt}", f"image={self.image}"]
        lines += [f"input={role} {url}" for role, url in self.inputs.items()]
        lines += [f"env={name}={value}" for name, value in self.environment.items()]
        return "\n".join(_one_line(lines)) + "\n"


def _one_line(lines: Sequence[str]) -> Sequence[str]:
    for line in lines:
        if not line.isprintable():
            raise InputError(f"{line.partition('=')[0]} has more than one line for a TPU VM.")
    return lines
