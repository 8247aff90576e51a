"""What a process of a stage is given, read off the description of its run."""

from pathlib import Path

from espalier.contract.manifest import RUN_FOLDER, RunSpec
from espalier.contract.progress import Progress
from espalier.contract.stage import StageContext


def scratch_of(output: Path) -> Path:
    """The private folder of a partial result."""
    return output / RUN_FOLDER / "scratch"


def context_of(spec: RunSpec, output: Path, progress: Progress) -> StageContext:
    """The context of a run whose partial result is `output`."""
    inputs = {role: Path(path) for role, path in spec.inputs.items()}
    return StageContext(inputs, output, scratch_of(output), spec.device, progress, spec.name)
