"""TIME=: how long a Slurm job may take, in any of Slurm's ways to write it."""

import re

LEAST_MINUTES = 5
MOST_MINUTES = 366 * 1440
_DAYS = re.compile(r"(?P<d>\d{1,9})-(?P<h>\d{1,9})(:(?P<m>\d{1,9})(:(?P<s>\d{1,9}))?)?", re.ASCII)
_CLOCK = re.compile(r"((?P<h>\d{1,9}):(?=\d+:))?(?P<m>\d{1,9})(:(?P<s>\d{1,9}))?", re.ASCII)


def job_time(text: str) -> str:
    """The text itself.

    Raises:
        ValueError: Slurm has no such time, or a job would be told to stop as soon as it began.
    """
    found = _DAYS.fullmatch(text) or _CLOCK.fullmatch(text)
    if not found:
        raise ValueError("is not a time; give for example 30 (minutes), 04:00:00 or 2-12:00:00")
    days, hours, minutes, seconds = (int(found.groupdict().get(key) or 0) for key in "dhms")
    if days * 1440 + hours * 60 + minutes + seconds / 60 < LEAST_MINUTES:
        raise ValueError(
            f"is too short, since a job is told two minutes ahead to save; give {LEAST_MINUTES} "
            "minutes or more"
        )
    if days * 1440 + hours * 60 + minutes > MOST_MINUTES:
        raise ValueError("is longer than any job runs; give a year at most")
    return text
