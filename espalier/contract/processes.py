"""What a training stage is spread over, and how its parts know of each other."""

import ctypes
import ipaddress
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass

NODES, EACH, NODE, HEAD, PORT = (
    "ESPALIER_NODES", "ESPALIER_PROCESSES", "ESPALIER_NODE", "ESPALIER_HEAD", "ESPALIER_PORT",
)  # fmt: skip
USUAL_PORT = 29517
"""Where machines meet that have one job only, as those of a TPU slice."""
COMPILED = "JAX_COMPILATION_CACHE_DIR"
"""Names the folder of XLA's compiled programs; JAX reads it."""


@dataclass(frozen=True)
class Processes:
    """Machines, and processes on each of them: one a GPU, or one a share of the cores.

    Attributes:
        node: which of the machines this is; the first one publishes.
        head: the first one's name or address, where there are several.
        port: of the first one, at which all meet.
    """

    nodes: int = 1
    each: int = 1
    node: int = 0
    head: str = ""
    port: int = USUAL_PORT

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
            port=int(variables.get(PORT, USUAL_PORT)),
        )

    @property
    def environment(self) -> dict[str, str]:
        """What `from_environment` reads, but for what differs from machine to machine."""
        head = {HEAD: self.head, PORT: str(self.port)} if self.head else {}
        return {NODES: str(self.nodes), EACH: str(self.each), **head}

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.nodes * self.each

    @property
    def meeting_point(self) -> str:
        """`head:port`, for those that come to it."""
        return _endpoint(self.head, self.port)

    @property
    def listens_at(self) -> str:
        """`address:port`, for the head itself; all its addresses where it cannot tell which."""
        return _endpoint(own_address(self.head) or "::", self.port)


@dataclass(frozen=True)
class Share:
    """A rank's part of every batch: contiguous rows, of equal number on all ranks."""

    rank: int
    world: int

    def of(self, first: int, end: int) -> tuple[int, int]:
        """Its part of samples `first` to `end`."""
        size = (end - first) // self.world
        return first + self.rank * size, first + (self.rank + 1) * size


def own_address(name: str) -> str:
    """The one address of this machine by which others reach it under that name, or nothing.

    A machine's own name often is a loopback address in its own table of hosts, and an address may
    be another machine's that forwards.
    """
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}
    except OSError:
        return ""
    written = name in found
    if len(found) > 1 or (not written and any(map(_is_loopback, found))):
        return ""
    (address,) = found
    try:
        with socket.socket(family_of(address)) as trial:
            trial.bind((address, 0))
    except OSError:
        return ""
    return address


def family_of(address: str) -> socket.AddressFamily:
    """Which of the two kinds of addresses it is."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def end_with_parent(signal_number: int) -> None:
    """Ask Linux for a signal when the parent process dies, as an engine would stop a container."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal_number)
