"""The failures a user can meet, each with the exit code it ends in."""

DIVERGED = 4
"""Exit code of a training whose loss became NaN or infinite: the same command would do so again."""


class EspalierError(Exception):
    """A failure told in one sentence: what is wrong and what to do."""

    exit_code = 1


class InputError(EspalierError):
    """A bad parameter or input."""

    exit_code = 2


class EnvironmentFailure(EspalierError):
    """The machine, the disk, the engine or the network is not as needed."""

    exit_code = 3


class Interrupted(EspalierError):
    """Stopped by a signal; run the same command to resume."""

    exit_code = 75
