"""Brings to the bucket what a run needs: its inputs, its spec, and the code that runs it."""

import gzip
import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from espalier.contract.manifest import RUN_FOLDER, InputRecord, RunSpec
from espalier.contract.measure import show_size
from espalier.contract.paths import ROOT
from espalier.errors import InputError
from espalier.host.images.definition import CODE
from espalier.host.runtimes.base import Launch
from espalier.host.runtimes.tpu_vm.folder import Folder

HOST_DISK = 80 * 10**9
"""Bytes of inputs: a TPU VM boots with 100 GB, of which the system and the image take a part."""
ODD = re.compile(r"[^A-Za-z0-9._-]")


def _require_room(launch: Launch) -> None:
    """Refuse inputs that no host of a TPU VM can hold, before one is paid for.

    Raises:
        InputError: they are larger.
    """
    files = [file for path in launch.inputs.values() for file in path.rglob("*") if file.is_file()]
    if (size := sum(file.stat().st_size for file in files)) > HOST_DISK:
        raise InputError(
            f"the inputs are {show_size(size)}, and each host of a TPU VM has room for "
            f"{show_size(HOST_DISK)}; train on fewer TOKENS at a time, from DATA of that many."
        )


def spec_of(launch: Launch) -> RunSpec:
    """What the executor has written for the stage."""
    return RunSpec.model_validate_json((launch.output / RUN_FOLDER / "run.json").read_bytes())


def input_urls(
    bucket: Folder, inputs: Mapping[str, Path], records: Mapping[str, InputRecord]
) -> dict[str, str]:
    """Role to where the input is kept: by its content, so that it is copied once for all runs.

    Of its name stays what is no pattern of objects, and one word of a line, on the TPU's hosts.
    """
    names = {role: ODD.sub("-", path.resolve().name) for role, path in inputs.items()}
    return {
        role: f"{bucket.url}/inputs/{name}-{records[role].content[:16]}"
        for role, name in names.items()
    }


def upload_inputs(
    bucket: Folder, launch: Launch, records: Mapping[str, InputRecord], say: Callable[[str], None]
) -> dict[str, str]:
    """Copy the inputs that are not in the bucket yet; where each of them is.

    Raises:
        InputError: no host of a TPU VM can hold them.
    """
    _require_room(launch)
    urls = input_urls(bucket, launch.inputs, records)
    folder = bucket.below("inputs")
    for role, path in launch.inputs.items():
        name = urls[role].rpartition("/")[2]
        if folder.read(f"{name}.complete") is None:
            say(f"Copying the input {role} to {urls[role]}.")
            folder.upload(path, name)
            folder.write(f"{name}.complete", records[role].content)
    return urls


def upload_run(folder: Folder, launch: Launch) -> tuple[str, str]:
    """The run's spec, and the code as it was fingerprinted: the sha256 of the code and the spec.

    Each is named by it, so that a later start with other code takes none from a slice at work.
    """
    code, spec = _code(), (launch.output / RUN_FOLDER / "run.json").read_bytes()
    hashes = hashlib.sha256(code).hexdigest(), hashlib.sha256(spec).hexdigest()
    folder.write_bytes(f"code-{hashes[0]}.tar.gz", code)
    folder.write_bytes(f"run-{hashes[1]}.json", spec)
    return hashes


def _code() -> bytes:
    """The same bytes of the same code, whenever it is packed."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in CODE:
            archive.add(ROOT / name, name, filter=_source)
    return gzip.compress(packed.getvalue(), 6, mtime=0)


def _source(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if "__pycache__" in info.name:
        return None
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info
