"""Writes an image as an archive, for machines without a registry."""

import subprocess
from pathlib import Path

from espalier.contract.files import replacing
from espalier.errors import EnvironmentFailure
from espalier.host.images.building import ensure_built
from espalier.host.images.engine import Engine


def save(name: str, engine: Engine, accel: str, destination: Path) -> Path:
    """Write the image, built first when stale; the archive is complete or not there.

    `docker load`, `podman load` and `apptainer build x.sif docker-archive:<file>` read it.
    """
    built = ensure_built(name, engine, accel)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with replacing(destination, "give another TO") as temporary:
            with temporary.open("wb") as archive:
                command = engine.command("save", built.reference)
                done = subprocess.run(command, check=False, stdout=archive, stderr=subprocess.PIPE)
            if done.returncode:
                reason = " ".join(done.stderr.decode(errors="replace").split())
                raise EnvironmentFailure(
                    f"Image {name} could not be saved; {engine.name}: {reason}"
                )
    except OSError as error:
        raise EnvironmentFailure(
            f"The archive {destination} cannot be written: {error.strerror}; give another TO."
        ) from error
    return destination
