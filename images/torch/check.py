"""Run inside an image after it is built: its packages must import and fit together.

Prints what the image holds as one JSON object; fails with Python's own message otherwise. A virtual
environment gives its uv and the packages that its image overrides: `check.py <uv> [<package> …]`.
"""

import importlib
import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from pathlib import Path

IMAGE = Path(__file__).parent


def main() -> None:
    # Hard imports: a package that only installs is no proof that it works beside this torch.
    names = [
        name
        for listing in sorted((IMAGE / "imports").glob("*.txt"))
        for name in listing.read_text().split()
    ]
    for name in names:
        importlib.import_module(name)

    listing = IMAGE / "overridden.txt"
    listed = listing.read_text().split() if listing.is_file() else []
    uv, *overridden = sys.argv[1:] or ["uv", *listed]
    command = [uv, "pip", "check", "--python", sys.executable]
    found = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    needs = re.findall(r"^The package `[^`]+` requires `([\w.-]+)", found.stderr, re.MULTILINE)
    if found.returncode and (not needs or set(needs) - set(overridden)):
        sys.exit(found.stderr)
    if sys.argv[1:]:
        return

    installed = importlib.metadata.distributions()
    packages = {
        re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(): found.version for found in installed
    }
    record = {
        "python": platform.python_version(),
        "imports": names,
        "packages": dict(sorted(packages.items())),
    }
    sys.stdout.write(json.dumps(record, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
