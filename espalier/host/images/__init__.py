"""The images: what is in them, the engines that hold them, and building them."""

from espalier.host.images.archive import save
from espalier.host.images.building import build, build_all, ensure_built
from espalier.host.images.definition import Image, images_for, known_images, load_image
from espalier.host.images.engine import Engine, ImageReference, find_engine, installed_engine
from espalier.host.images.lock import compile_lock, known_locks
from espalier.host.images.trial import Trial, tried

__all__ = [
    "Engine",
    "Image",
    "ImageReference",
    "Trial",
    "build",
    "build_all",
    "compile_lock",
    "ensure_built",
    "find_engine",
    "images_for",
    "installed_engine",
    "known_images",
    "known_locks",
    "load_image",
    "save",
    "tried",
]
