"""The store at which the machines of a job meet: open at the first one's address, and no other."""

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

pytest.importorskip("torch")

from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from espalier.errors import EnvironmentFailure
from espalier.ranks.meeting import BACKEND
from tests.ports import free_ports

pytestmark = pytest.mark.fsdp
HEAD = "127.0.0.2"


def meet(rank: int, port: int, run: str = "run", within: float = 120) -> Any:
    """One machine of two comes to the meeting point."""
    endpoint = f"{HEAD}:{port}"
    parameters = RendezvousParameters(BACKEND, endpoint, run, 2, 2, rank=rank, timeout=within)
    return get_rendezvous_handler(parameters).next_rendezvous()


def answers(address: str, port: int) -> bool:
    with closing(socket.socket()) as caller:
        return caller.connect_ex((address, port)) == 0


def test_the_store_listens_at_the_heads_address_alone() -> None:
    (port,) = free_ports(1)
    with ThreadPoolExecutor(2) as machines:
        first, second = machines.map(meet, (0, 1), (port, port))
    assert (first.rank, second.rank, second.world_size) == (0, 1, 2)
    first.store.set("word", "said")
    assert second.store.get("word") == b"said"
    assert second.bootstrap_store_info.master_addr == HEAD
    assert second.bootstrap_store_info.master_port == port
    assert answers(HEAD, port)
    assert not answers("127.0.0.1", port)


def test_those_that_meet_again_come_to_the_same_store() -> None:
    """The second machine may be there first, and what was said before is not said again."""
    (port,) = free_ports(1)
    with ThreadPoolExecutor(2) as machines:
        first, _ = machines.map(meet, (0, 1), (port, port))
        first.store.set("word", "said")
        again = [meet(rank, port, "again", within=500) for rank in (1, 0)]
    assert not any(one.store.check(["word"]) for one in again)
    again[1].store.set("word", "new")
    assert again[0].store.get("word") == b"new"
    assert first.store.get("word") == b"said"


def test_a_port_that_another_program_has_is_said() -> None:
    with closing(socket.socket()) as other:
        other.bind((HEAD, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            EnvironmentFailure, match=f"nothing can listen at port {port} of {HEAD}"
        ):
            meet(0, port)
