"""A container engine whose daemon stops when it is to run something."""

import json
from pathlib import Path

from espalier.host.images.building import base_image
from espalier.host.images.definition import images_for, load_image
from espalier.host.images.engine import CONTEXT_LABEL

CLIENT = """\
#!/usr/bin/env bash
# Of docker's client: it holds every image, and its daemon is gone once a container is asked for.
here=$(dirname "$0")
gone() { echo 'Cannot connect to the Docker daemon. Is the docker daemon running?' >&2; exit "$1"; }
case $1 in
  version) exit 0 ;;
  image) cat "$here/${3//\\//-}.json" ;;
  run) gone 125 ;;
  *) gone 1 ;;
esac
"""


def dying_engine(folder: Path) -> dict[str, str]:
    """Write its client there; the variable that has the command line use it."""
    folder.mkdir(parents=True)
    for name in images_for("cpu"):
        image = load_image(name)
        labels = {CONTEXT_LABEL: image.context_hash("cpu", base_image(image))}
        held = [{"Id": f"sha256:{'0' * 64}", "Size": 1, "Config": {"Labels": labels}}]
        place = folder / f"{image.reference('cpu').replace('/', '-')}.json"
        place.write_text(json.dumps(held))
    client = folder / "docker"
    client.write_text(CLIENT)
    client.chmod(0o755)
    return {"DOCKER": str(client)}
