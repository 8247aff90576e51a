"""Where the ranks of several machines meet: a store at the first one's own address, and no other.

Torch's own store listens at all of a machine's addresses, so that whoever reaches one of them
could write into it.
"""

import socket
from datetime import timedelta

from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from espalier.contract.processes import family_of, own_address
from espalier.errors import EnvironmentFailure

BACKEND = "head"
"""What torch's launcher knows it by."""


class HeadRendezvous(StaticTCPRendezvous):  # type: ignore[misc]
    """Torch's static rendezvous but for where the first machine listens."""

    _store: TCPStore | None

    def get_backend(self) -> str:
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        """Open the store, here or at the first machine, or come to the one that is open."""
        address = own_address(self.master_addr) if self.rank == 0 else ""
        if address:
            self._store = _opened(
                *(address, self.master_addr, self.master_port), self.world_size, self.timeout
            )
        return super().next_rendezvous()


_OPEN: dict[tuple[str, int], TCPStore] = {}
"""Stores of this process by address and port: they stay open, for machines that meet again.

Those that are done with one meeting come to the next while the head still works between them.
"""


def _opened(address: str, head: str, port: int, machines: int, timeout: timedelta) -> TCPStore:
    """The store at the head's own address."""
    if (store := _OPEN.get((address, port))) is None:
        store = _OPEN[address, port] = TCPStore(
            *(head, port, machines),
            is_master=True,
            timeout=timeout,
            multi_tenant=True,
            master_listen_fd=_bound(address, port),
        )
    store.set_timeout(timeout)
    return store


def _bound(address: str, port: int) -> int:
    """A socket's descriptor, which the store closes.

    Raises:
        EnvironmentFailure: another program has the port.
    """
    listener = socket.socket(family_of(address))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise EnvironmentFailure(
            f"nothing can listen at port {port} of {address} ({error.strerror}); end what does, "
            "and run the same command to resume."
        ) from None
    return listener.detach()


def _create(parameters: RendezvousParameters) -> RendezvousHandler:
    address, port = parse_rendezvous_endpoint(parameters.endpoint, default_port=-1)
    rank, seconds = parameters.config["rank"], parameters.config["timeout"]
    nodes = parameters.max_nodes
    return HeadRendezvous(address, port, rank, nodes, parameters.run_id, seconds)


rendezvous_handler_registry.register(BACKEND, _create)
