"""The images: what is in them, the engines that hold them, and building them."""

from espalier.images.definition import Image, known_images, load_image
from espalier.images.lock import compile_lock

__all__ = ["Image", "compile_lock", "known_images", "load_image"]
