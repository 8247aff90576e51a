"""Runs one stage in a new interpreter and says which modules of ours it has loaded.

`python -m tests.contract.loaded` reads from stdin what to run, and prints names, one a line.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espalier.contract.paths import PACKAGES, ROOT
from espalier.contract.progress import Progress
from espalier.contract.stage import Stage, StageContext

OFFLINE = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
SELF = set(sys.modules)
"""What is loaded by now: of ours, what a stage is told with."""


def loaded_by(
    stage: Stage, given: Mapping[str, Any], inputs: Mapping[str, Path], output: Path
) -> set[str]:
    """The modules of ours that a stage's entry loads, run with these parameters and inputs."""
    kind = stage.parameters
    asked = {
        "entry": stage.entry,
        "parameters": f"{kind.__module__}:{kind.__qualname__}",
        "given": given,
        "inputs": {role: str(path) for role, path in inputs.items()},
        "output": str(output),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.contract.loaded"],
        cwd=ROOT, input=json.dumps(asked), env={**os.environ, **OFFLINE}, capture_output=True,
        text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))  # harnesses print too


def main() -> None:
    asked = json.load(sys.stdin)
    output = Path(asked["output"])
    scratch = output / ".run" / "scratch"
    scratch.mkdir(parents=True)
    inputs = {role: Path(path) for role, path in asked["inputs"].items()}
    context = StageContext(
        inputs, output, scratch, "cpu", Progress(output / "metrics.jsonl"), output.name
    )
    _imported(asked["entry"])(context, _imported(asked["parameters"])(**asked["given"]))
    ours = (name for name in sys.modules if name.partition(".")[0] in PACKAGES)
    print(json.dumps(sorted(set(ours) - SELF)))


def _imported(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    main()
