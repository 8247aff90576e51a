"""What cannot be stopped and gone on with has to end within one job's TIME."""

import math

from espalier.contract.measure import show_time
from espalier.errors import InputError
from espalier.host.fit import Fit
from espalier.host.job_time import seconds_of
from espalier.host.plan import Request
from espalier.host.resolution import device_of
from espalier.host.runtimes.slurm.job import STOP_SECONDS
from espalier.host.settings import Settings

ESTIMATED_CORES = 2
"""Which estimates of time are for."""


def require_time(request: Request, settings: Settings) -> str:
    """Refuse a stage that saves nothing and does not end before its job is told to stop.

    Returns:
        what is to be said where that is not known; nothing where there is nothing to say.

    Raises:
        InputError: it takes longer.
    """
    stage, time = request.stage, settings.time
    if stage.saved is not None or time is None or settings.force:
        return ""
    estimate = Fit.of(stage, request.parameters, request.inputs, request.shape).estimate
    if estimate is None or device_of(stage, settings) != "cpu":
        return (
            f"{stage.name} begins anew if its job is stopped, and how long it takes is not known; "
            f"see that TIME={time} is enough."
        )
    # As if all of it were spread over the cores: what is refused is too long at the best.
    cores = max(settings.cpus or 0, ESTIMATED_CORES)
    seconds = estimate.seconds * ESTIMATED_CORES / cores
    if seconds > seconds_of(time) - STOP_SECONDS:
        minutes = math.ceil((seconds + STOP_SECONDS) / 60)
        raise InputError(
            f"{stage.name} of {request.name} takes about {show_time(seconds)} on {cores:g} cores, "
            f"and begins anew if its job is stopped: TIME={time} is too short; raise TIME= to "
            f"{minutes} (minutes) or more, give more CPUS=, or submit it anyway with FORCE=1."
        )
    return ""
