"""A pipeline as the commands of several jobs, each with the resources that its step needs."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

EVALUATION = "eval"


@dataclass(frozen=True)
class Command:
    """A command of the tool.

    Attributes:
        given: its assignments, settings aside.
        trains: whether it is the one that NODES and GPUS are for.
        title: what its job is called.
    """

    name: str
    given: Mapping[str, str]
    trains: bool = False
    title: str = ""

    def cut(self, title: str, **given: str) -> "Command":
        """The same command with other assignments, as a job called `title`."""
        return replace(self, given={**self.given, **given}, title=title)


def steps(command: Command, missing: Set[str]) -> list[Command]:
    """The commands that stand for `command`, in order: a pipeline is itself, cut after each step.

    What an earlier one has published, the later ones find done and skip. `missing` holds the verbs
    of the stages whose results are not there yet.
    """
    if command.name != "pipeline" and not command.name.startswith("prune-"):
        return [replace(command, title=command.name)]
    method = command.given.get("METHOD", "wanda")
    title = f"prune-{method}" if command.name == "pipeline" else command.name
    found = []
    if missing - {EVALUATION}:
        found.append(command.cut(title, SUITE="none"))
    if EVALUATION in missing:
        found.append(replace(command, title=EVALUATION, trains=False))
    return found
