"""The revision of the code that runs, for the manifest."""

import os
import subprocess
from functools import cache

from espalier.contract.paths import ROOT


@cache
def code_revision() -> str | None:
    """Git's commit, with `+changes` where the work tree differs; in an image, its label's."""
    if recorded := os.environ.get("ESPALIER_REVISION"):
        return recorded
    revision = _git("rev-parse", "HEAD")
    if not revision:
        return None
    return f"{revision}+changes" if _git("status", "--porcelain", "-uno") else revision


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
