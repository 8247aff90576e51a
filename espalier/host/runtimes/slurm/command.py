"""What a job runs: a command of the tool."""

from collections.abc import Mapping
from dataclasses import dataclass


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
