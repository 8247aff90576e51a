"""The images: what is in them, the engines that hold them, and building them."""

from espalier.images.archive import save
from espalier.images.building import build, ensure_built
from espalier.images.definition import Image, images_for, known_images, load_image
from espalier.images.engine import Engine, ImageReference, find_engine
from espalier.images.lock import compile_lock, known_locks

__all__ = [
    "Engine",
    "Image",
    "ImageReference",
    "build",
    "compile_lock",
    "ensure_built",
    "find_engine",
    "images_for",
    "known_images",
    "known_locks",
    "load_image",
    "save",
]
