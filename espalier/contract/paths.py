"""Where the project's own files are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("espalier", "methods", "inputs", "training", "eval")
"""The folders of our own modules, all of which go into every image."""
