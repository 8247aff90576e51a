"""Hands jobs to sbatch, each after those whose results it needs."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence

from espalier.errors import EnvironmentFailure, EspalierError, InputError
from espalier.host.runtimes.slurm.job import Job

NO_ANSWER = re.compile(r"unable to contact|timed out|connection refused|munge", re.IGNORECASE)


def require_sbatch() -> None:
    """Refuse RUNTIME=slurm where nothing can be submitted.

    Raises:
        EnvironmentFailure: there is no sbatch.
    """
    if not shutil.which("sbatch"):
        raise EnvironmentFailure(
            "no sbatch is on PATH; submit from a machine of the cluster, or choose another RUNTIME."
        )


def submit(jobs: Sequence[Job]) -> list[str]:
    """The jobs' ids, in order; all of them are in the queue, or none.

    Raises:
        InputError: Slurm refuses one.
        EnvironmentFailure: Slurm does not answer.
    """
    ids: dict[str, str] = {}
    for job in jobs:
        try:
            ids[job.step] = _submit(job, [ids[step] for step in job.after])
        except EspalierError:
            if ids:
                subprocess.run(["scancel", *ids.values()], check=False, capture_output=True)
            raise
        _say(f"{job.step}: job {ids[job.step]}, log {job.file(ids[job.step], 'log')}")
    return list(ids.values())


def dependency(after: Sequence[str]) -> list[str]:
    """Start only where the jobs before have ended well; otherwise never."""
    return [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []


def _submit(job: Job, after: Sequence[str]) -> str:
    words = ["sbatch", "--parsable", *dependency(after)]
    done = subprocess.run(words, input=job.script(), check=False, capture_output=True, text=True)
    if done.returncode:
        reason = _reason(done.stderr)
        if NO_ANSWER.search(reason):
            raise EnvironmentFailure(f"Slurm does not answer: {reason}.")
        raise InputError(f"Slurm refuses the job {job.step}: {reason}.")
    number = done.stdout.strip().partition(";")[0]
    job.file(number, "sh").write_text(job.script())
    return number


def _reason(said: str) -> str:
    """The last of sbatch's lines that says why."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in said.splitlines()]
    reason = (list(filter(None, lines)) or ["it does not say why"])[-1]
    return reason.removeprefix("Batch job submission failed: ").rstrip(".")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
