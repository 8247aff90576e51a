"""What the images at the bottom are built on: the Dockerfile's base, or another by a variable."""

import os
import re

from espalier.contract.image import SHARED
from espalier.errors import EnvironmentFailure
from espalier.host.images.definition import Image
from espalier.host.images.engine import BASE_LABEL, HeldImage


def base_variable(image: Image) -> str:
    """What names another base for an image: Pythons differ, so one base can't serve them all."""
    bottom = image.bottom.name
    return "BASE_IMAGE" if bottom == SHARED else f"BASE_IMAGE_{bottom.upper()}"


def base_image(image: Image, held: HeldImage | None = None) -> str:
    """The variable's base, else the one a held image was built with, else the Dockerfile's."""
    given = os.environ.get(base_variable(image))
    return given or (held and held.labels.get(BASE_LABEL)) or pinned_base(image)


def pinned_base(image: Image) -> str:
    """The base that the Dockerfile at the bottom names."""
    dockerfile = image.bottom.dockerfile.read_text()
    found = re.search(r"^ARG BASE_IMAGE=(\S+)$", dockerfile, re.MULTILINE)
    if not found:
        raise EnvironmentFailure(
            f"The Dockerfile of image {image.bottom.name} names no base; give "
            f"{base_variable(image)}."
        )
    return found[1]
