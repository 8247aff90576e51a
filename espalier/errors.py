"""The failures a user can meet, each with the exit code it ends in."""

DIVERGED = 4
"""Exit code of a training whose loss became NaN or infinite: the same command would do so again."""


class EspalierError(Exception):
    """A failure told in one sentence: what is wrong and what to do.

    Names that come from elsewhere stand in it: what would move a terminal's cursor is spelled out.
    """

    exit_code = 1

    def __init__(self, text: str = "") -> None:
        super().__init__("".join(map(_shown, text)))


def _shown(letter: str) -> str:
    if letter.isprintable():
        return letter
    return " " if letter.isspace() else ascii(letter)[1:-1]


class InputError(EspalierError):
    """A bad parameter or input."""

    exit_code = 2


class EnvironmentFailure(EspalierError):
    """The machine, the disk, the engine or the network is not as needed."""

    exit_code = 3


class Interrupted(EspalierError):
    """Stopped by a signal; run the same command to resume."""

    exit_code = 75
