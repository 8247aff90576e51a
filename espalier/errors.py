"""The failures a user can meet, each with the exit code it ends in."""

import re

DIVERGED = 4
"""Exit code of a training whose loss became NaN or infinite: the same command would do so again."""


class EspalierError(Exception):
    """A failure told in one sentence: what is wrong and what to do.

    Names that come from elsewhere stand in it, and addresses: what would move a terminal's cursor
    is spelled out, and what lets others in is left out.
    """

    exit_code = 1

    def __init__(self, text: str = "") -> None:
        super().__init__("".join(map(_shown, without_secrets(text))))


def without_secrets(text: str) -> str:
    """A text without the names, passwords and signatures that addresses in it hold."""
    return _QUERY.sub(r"\1?…", _LOGIN.sub("://…@", text))


_LOGIN = re.compile(r"://[^/@\s]+@")
_QUERY = re.compile(r"""(\w://[^\s?'"]+)\?[^\s'"]*[^\s'".,;:)]""")


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


class Diverged(EspalierError):
    """The loss is no number any more; what was saved before is kept.

    Its code is its own, so that no queue gives it another turn.
    """

    exit_code = DIVERGED

    @classmethod
    def at(cls, step: int, saved: int | None) -> "Diverged":
        """Of that step, with the state of step `saved` kept, if any."""
        kept = f"the state of step {saved} is kept" if saved else "nothing was saved yet"
        return cls(
            f"the loss became NaN or infinite at step {step}; {kept}. Lower LR or CLIP, or look at "
            "the data."
        )
