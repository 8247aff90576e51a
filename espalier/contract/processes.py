"""What a training stage is spread over, and how its parts know of each other."""

import ctypes
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

NODES, EACH, NODE, HEAD = (
    "ESPALIER_NODES", "ESPALIER_PROCESSES", "ESPALIER_NODE", "ESPALIER_HEAD",
)  # fmt: skip
COMPILED = "JAX_COMPILATION_CACHE_DIR"
"""Names the folder of XLA's compiled programs; JAX reads it."""


@dataclass(frozen=True)
class Processes:
    """Machines, and processes on each of them: one a GPU, or one a share of the cores.

    Attributes:
        node: which of the machines this is; the first one publishes.
        head: the first one's name, where there are several.
    """

    nodes: int = 1
    each: int = 1
    node: int = 0
    head: str = ""

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = os.environ) -> "Processes":
        """As the runtime has set them; a job step's own number is Slurm's."""
        nodes = int(variables.get(NODES, "1"))
        number = variables.get(NODE) or variables.get("SLURM_NODEID", "0")
        return cls(
            nodes=nodes,
            each=int(variables.get(EACH, "1")),
            node=int(number) if nodes > 1 else 0,
            head=variables.get(HEAD, ""),
        )

    @property
    def environment(self) -> dict[str, str]:
        """What `from_environment` reads, but for what differs from machine to machine."""
        head = {HEAD: self.head} if self.head else {}
        return {NODES: str(self.nodes), EACH: str(self.each), **head}

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.nodes * self.each


def end_with_parent(signal_number: int) -> None:
    """Ask Linux for a signal when the parent process dies, as an engine would stop a container."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal_number)
