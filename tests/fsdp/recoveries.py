"""Recoveries of tiny models inside the test's process, and what they are trained on."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espalier.contract.progress import Progress
from tests.fsdp.tiny_runs import Run, place_of
from training.gpu_fsdp.repeatable import repeatable
from training.recover.job import RecoverRun
from training.recover.spec import RecoverParameters
from training.recover.trainer import RecoverTrainer

SMALL = {"batch": 4, "seqlen": 16, "lr": 3e-2, "tracker": "none", "valid": 8, "epochs": 9}
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog")
Change = Callable[[int, RecoverTrainer], None]


def text(path: Path, sentences: int = 60) -> Path:
    """Sentences that are not all the same."""
    lines = (
        " ".join(WORDS[(n * n + step) % len(WORDS)] for step in range(9)) for n in range(sentences)
    )
    path.write_text(".\n".join(lines) + ".\n")
    return path


def instructions(path: Path, rows: int = 24) -> Path:
    """Rows with and without an input, whose outputs have unequal lengths."""
    found = [
        {
            "instruction": f"Say {WORDS[n % len(WORDS)]}.",
            "input": WORDS[n % 4] if n % 2 else "",
            "output": " ".join(WORDS[: 1 + n % 5]),
        }
        for n in range(rows)
    ]
    path.write_text(json.dumps(found))
    return path


@dataclass(frozen=True)
class Recovered(Run):
    """A finished recovery."""

    trainer: RecoverTrainer

    @property
    def bytes(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.output.glob("*.safetensors")}


def job_of(model: Path, data: Path, teacher: Path | None = None, **parameters: Any) -> RecoverRun:
    inputs = {"model": model, "examples": data} | ({"teacher": teacher} if teacher else {})
    return RecoverRun.of(RecoverParameters(**{**SMALL, **parameters}), inputs)


def recover(
    output: Path,
    model: Path,
    data: Path,
    trainer: type[RecoverTrainer] = RecoverTrainer,
    **parameters: Any,
) -> Recovered:
    """Recover a model, in this process."""
    job, place = job_of(model, data, **parameters), place_of(output)
    with repeatable():
        made = trainer(job, place, "cpu")
        return Recovered(output, made.carry_out(output.name, Progress(None)), made)
