"""One of several machines that evaluate: the number is in its environment.

Arguments: the model, the folder of rows, the folder of output and scratch.
"""

import sys
from pathlib import Path

from espalier.contract.processes import Processes
from espalier.contract.progress import Progress
from espalier.contract.stage import StageContext
from eval.maxtext.spec import JaxEvalParameters
from eval.maxtext.stage import join, run


def main(model: Path, rows: Path, folder: Path) -> None:
    """Take part; only the first has a folder for its scratch."""
    inputs = {"model": model, "tasks": rows}
    parameters = JaxEvalParameters.from_assignments({"SUITE": "tasks", "LOG_SAMPLES": "1"})
    first = Processes.from_environment().node == 0
    scratch = folder / ("scratch" if first else "nowhere")
    context = StageContext(inputs, folder, scratch, "cpu", Progress())
    (run if first else join)(context, parameters)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
