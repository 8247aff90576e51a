"""Slurm: a command becomes jobs that run it again, and inside a job each stage is a step."""

import os


def in_job() -> bool:
    """Whether this process has an allocation already: a batch script's, or salloc's."""
    return "SLURM_JOB_ID" in os.environ
