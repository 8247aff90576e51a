"""TIME=: how long a Slurm job may take, in any of Slurm's ways to write it."""

import re

LEAST_MINUTES = 5
_DAYS = re.compile(r"(?P<d>\d+)-(?P<h>\d+)(:(?P<m>\d+)(:(?P<s>\d+))?)?")
_CLOCK = re.compile(r"((?P<h>\d+):(?=\d+:))?(?P<m>\d+)(:(?P<s>\d+))?")


def job_time(text: str) -> str:
    """The text itself.

    Raises:
        ValueError: Slurm has no such time, or a job would be told to stop as soon as it began.
    """
    if seconds_of(text) < 60 * LEAST_MINUTES:
        raise ValueError(
            f"is too short, since a job is told two minutes ahead to save; give {LEAST_MINUTES} "
            "minutes or more"
        )
    return text


def seconds_of(text: str) -> int:
    """How long it is.

    Raises:
        ValueError: Slurm has no such time.
    """
    found = _DAYS.fullmatch(text) or _CLOCK.fullmatch(text)
    if not found:
        raise ValueError("is not a time; give for example 30 (minutes), 04:00:00 or 2-12:00:00")
    days, hours, minutes, seconds = (int(found.groupdict().get(key) or 0) for key in "dhms")
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
