"""Virtual environments built from the images' own locks, to run stages without an engine."""

import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from espalier.contract.image import SHARED
from espalier.errors import EnvironmentFailure
from espalier.host.images.definition import IMAGES, Image, load_image
from espalier.host.images.lock import cpu_torch_options, find_uv, run_uv

COMPLETE = ".complete"  # written last: a virtual environment can't be built elsewhere and moved


def venv_python(name: str, accel: str, root: Path) -> Path:
    """The python of the environment for these locks, where it is or would be built."""
    lock_hash = load_image(name).lock_hash(accel)
    return root.resolve() / f"{name}-{accel}-{lock_hash[:12]}" / "bin" / "python"


def ensure_venv(name: str, accel: str, root: Path) -> Path:
    """The python of the environment for these locks, which is built where it isn't there yet."""
    image, python = load_image(name), venv_python(name, accel, root)
    folder = python.parent.parent
    if (folder / COMPLETE).is_file():
        return python
    _create_root(root)
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / COMPLETE).is_file():  # another process may have built it meanwhile
            _build(image, accel, folder, python)
            (folder / COMPLETE).write_text(f"{image.lock_hash(accel)}\n")
    return python


def find_python(image: Image) -> str | None:
    """What an environment for the image would be made with, if this machine has it."""
    command = [find_uv(), "python", "find", "--system", "--no-project", "--no-python-downloads"]
    found = subprocess.run(
        [*command, image.python],
        check=False,
        cwd=image.bottom.folder,
        capture_output=True,
        text=True,
    )
    return found.stdout.strip() or None


def _create_root(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFailure(
            f"The virtual environments' folder {root} can't be made: {error.strerror}."
        ) from error


def _build(image: Image, accel: str, folder: Path, python: Path) -> None:
    uv = find_uv()
    sys.stderr.write(f"Building the virtual environment {folder.name}\n")
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted build left
    run_uv(
        [uv, "venv", "--quiet", "--no-project", "--python", image.python, str(folder)],
        f"Image {image.name} needs Python {image.python} on this machine, or a container engine",
        image.bottom.folder,  # pyenv goes by the file with the version there
    )
    # Not compiled: stages import few of the modules, and Python keeps the bytecode of those.
    install = [uv, "pip", "sync", "--quiet", "--require-hashes"]
    install += ["--python", str(python), "--build-constraints", str(image.installer_lock)]
    if accel == "cpu" and image.bottom.name == SHARED:
        install += cpu_torch_options()
    install += [str(lock) for lock in image.lock_files(accel)]
    run_uv(install, f"The packages of image {image.name} could not be installed")
    run_uv(
        [str(python), str(IMAGES / SHARED / "check.py"), uv, *image.overridden],
        f"The packages of image {image.name} do not fit together",
    )
