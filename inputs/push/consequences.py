"""What a push does to what others see in a repository: refused, or said before it is done."""

from collections.abc import Callable, Sequence

from espalier.contract.manifest import MANIFEST
from espalier.errors import InputError
from inputs.push.cargo import Cargo
from inputs.push.repository import Branch, Head

IGNORING = ".gitignore"
"""By what it says the hub leaves files out of a commit, without a word."""
FROM_THE_BEGINNING = ".gitattributes"
"""What the hub itself puts into a repository."""
NAMED = 6
"""Files that a line has place for."""


def require_fitting(repo: str, there: Head, cargo: Cargo, private: bool) -> None:
    """Refuse a repository in which the checkpoint would not be what was asked for.

    Raises:
        InputError: why, and what to do.
    """
    if private and not there.private:
        raise InputError(
            f"{repo} is public, and a push does not change that: make it private on the hub, or "
            "leave PRIVATE out."
        )
    if IGNORING in there.files:
        raise InputError(
            f"{repo} has a {IGNORING}, by which the hub may leave files out; remove it there, or "
            "choose another REPO=."
        )
    if misread := cargo.misread_with(there.files):
        raise InputError(
            f"{repo} holds {_some(misread)}, which loaders would read with this checkpoint; remove "
            f"{'it' if len(misread) == 1 else 'them'} there, or choose another REPO=."
        )


def say_what_becomes(
    branch: Branch,
    before: Head,
    cargo: Cargo,
    say: Callable[[str], None],
) -> None:
    """What a push does to what others see, before it does."""
    if cargo.taken:
        say(
            f"{MANIFEST} goes without {_some(cargo.taken)}: what names places of a machine stays "
            "on the store."
        )
    if cargo.left:
        say(f"not pushed, since no loader reads it: {_some(cargo.left)}.")
    if replaced := [name for name in before.lacks(cargo) if name in before.files]:
        say(
            f"{place_of(branch, before)} has other versions of {_some(replaced)}, which stay in "
            "its history."
        )
    if others := sorted(before.files.keys() - cargo.names - {FROM_THE_BEGINNING}):
        say(f"what else is there stays: {_some(others)}.")


def place_of(branch: Branch, head: Head) -> str:
    """`owner/name, main (public, commit 0123456789ab)`."""
    seen = "private" if head.private else "public"
    return f"{branch.repo}, {branch.name} ({seen}, commit {head.commit[:12]})"


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
