"""Runs one stage where nothing of ours is loaded, and says which of our modules it has loaded.

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
from espalier.contract.threads import THREADS, thread_variables
from espalier.host.runtimes.base import Launch
from espalier.host.runtimes.base import quiet_environment as stage_environment
from tests.warm.interpreters import ANEW, FIRST, warm_up, warmed

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
    warm_up(**{THREADS: "1"}, **thread_variables(1))
    done = subprocess.run(
        warmed([sys.executable, "-m", "tests.contract.loaded"]),
        cwd=ROOT, input=json.dumps(asked), capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, **stage_environment(Launch("", "cpu", "", {}, ROOT)), THREADS: "1",
             **thread_variables(1), FIRST: ANEW},
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
