"""Hands jobs to sbatch, each after those whose results it needs."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence

from espalier.errors import EnvironmentFailure, InputError
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
    try:
        for job in jobs:
            script = job.script()
            ids[job.step] = _submit(job.step, script, [ids[step] for step in job.after])
            job.file(ids[job.step], "sh").write_text(script)
            _say(f"{job.step}: job {ids[job.step]}, log {job.file(ids[job.step], 'log')}")
    except BaseException:  # Ctrl-C and a full disk too
        if ids:
            _cancel(list(ids.values()))
        raise
    return list(ids.values())


def _cancel(ids: Sequence[str]) -> None:
    """Take back a part of a chain, or say how to."""
    command = ["scancel", *ids]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        _say(f"these jobs are still in the queue ({_reason(done.stderr)}): {' '.join(command)}")
    else:
        _say(f"cancelled what was submitted: {', '.join(ids)}")


def dependency(after: Sequence[str]) -> list[str]:
    """Start only where the jobs before have ended well; otherwise never."""
    return [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []


def _submit(step: str, script: str, after: Sequence[str]) -> str:
    words = ["sbatch", "--parsable", *dependency(after)]
    done = subprocess.run(words, input=script, check=False, capture_output=True, text=True)
    if done.returncode:
        reason = _reason(done.stderr)
        if NO_ANSWER.search(reason):
            raise EnvironmentFailure(f"Slurm does not answer: {reason}.")
        raise InputError(f"Slurm refuses the job {step}: {reason}.")
    return done.stdout.strip().partition(";")[0]


def _reason(said: str) -> str:
    """The last of sbatch's lines that says why."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in said.splitlines()]
    reason = (list(filter(None, lines)) or ["it does not say why"])[-1]
    return reason.removeprefix("Batch job submission failed: ").rstrip(".")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
