"""A job that is put back into the queue again and again has to get further each time."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from espalier.contract.files import write_text
from espalier.contract.json_text import to_json
from espalier.contract.saved import AGAIN, saved_in, with_place
from espalier.contract.store import Store
from espalier.errors import EnvironmentFailure, EspalierError
from espalier.host.identity import is_there
from espalier.host.plan import Plan

MOST = 3
"""Starts in a row, after the first, that may find the work at the same place."""
DONE = "done"


def require_progress(
    plan: Plan, store: Store, folder: Path, variables: Mapping[str, str] = os.environ
) -> None:
    """Note where each start of a job begins; refuse the one that finds it where it has long been.

    Whoever has put it back, the job itself, Slurm or an operator: what ends before anything is
    saved would otherwise be begun for ever.

    Args:
        plan: what the job has to make, of one step.
        store: where.
        folder: of the plans and logs, where it is noted too.
        variables: Slurm's, in the job.

    Raises:
        EnvironmentFailure: it has got no further since it was put back for the first of MOST times.
    """
    if not int(variables.get("SLURM_RESTART_COUNT") or 0):
        return
    step = plan.steps[0].title
    file = folder / f"{step}-{variables['SLURM_JOB_ID']}.places"
    places = _places(plan, store)
    noted = [*(json.loads(file.read_text()) if file.is_file() else []), places]
    store.create(folder)
    write_text(file, to_json(noted))
    if len(noted) >= MOST and all(place == places for place in noted[-MOST:]):
        sentence = (
            f"{step} was put back into the queue {MOST} times in a row and got no further; raise "
            f"TIME=, or let it save more often, and {AGAIN}."
        )
        waiting = (place for place in places.values() if place not in ("", DONE))
        raise EnvironmentFailure(with_place(sentence, next(waiting, None)))


def _places(plan: Plan, store: Store) -> dict[str, str]:
    """How far each result is: done, begun as far as was saved, or nothing."""
    return {
        str(target): _place(target, plan.renew_before(target), store) for target in plan.requests
    }


def _place(target: Path, renew_before: float | None, store: Store) -> str:
    if is_there(target, renew_before):
        return DONE
    return "; ".join(filter(None, map(_saved, store.partials(target))))


def _saved(partial: Path) -> str:
    try:
        return saved_in(partial) or ""
    except (OSError, ValueError, EspalierError):  # of another version
        return ""
