"""`make lint`: ruff, mypy, hadolint and shellcheck over the whole project."""

import subprocess
import sys
from pathlib import Path

from espalier.contract.paths import ROOT
from espalier.host.images import load_image
from tests.run import MAIN, overlay, tools_venv


def main() -> int:
    """1 when any of them finds something."""
    tools = tools_venv(load_image(MAIN)) / "bin"
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    dockerfiles = [name for name in tracked if Path(name).name == "Dockerfile"]
    scripts = [
        name
        for name in tracked
        if (ROOT / name).is_file()
        and (ROOT / name).open("rb").readline().startswith(b"#!/usr/bin/env bash")
    ]
    commands = [
        [tools / "ruff", "check", "."],
        [tools / "ruff", "format", "--check", "."],
        [tools / "mypy", f"--python-executable={overlay(MAIN)}"],
        [tools / "hadolint", *dockerfiles],
        [tools / "shellcheck", *scripts],
    ]
    failed = 0
    for command in commands:
        print("==", command[0].name, flush=True)
        failed |= subprocess.run(command, cwd=ROOT, check=False).returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
