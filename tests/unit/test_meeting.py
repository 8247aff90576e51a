"""Where the machines of a job meet: a port of the job's own, at the first one's address alone."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.contract import processes
from espalier.contract.processes import USUAL_PORT, Processes, own_address
from espalier.errors import EnvironmentFailure
from espalier.host.runtimes.slurm import step
from espalier.host.runtimes.slurm.step import PORTS, meeting_port


@contextmanager
def listening(port: int, address: str = "127.0.0.1") -> Iterator[None]:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((address, port))
        other.listen()
        yield


@given(st.integers(1, 2**31), st.integers(1, len(PORTS) - 1))
def test_jobs_that_run_at_once_begin_at_other_ports(job: int, later: int) -> None:
    taken: set[int] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "_taken", lambda head, port: port in taken)
        first, second = (meeting_port("n1", str(number)) for number in (job, job + later))
        assert first != second
        assert {first, second} <= set(PORTS)
        assert meeting_port("n1", str(job)) == first  # of every start of the job
        taken.add(first)
        assert meeting_port("n1", str(job)) not in taken


def test_a_port_that_another_program_has_is_passed_over() -> None:
    job = 4217
    usual = meeting_port("127.0.0.1", str(job))
    with listening(usual):
        other = meeting_port("127.0.0.1", str(job))
        assert other != usual
        # Of another address of the machine it is free all the same.
        assert meeting_port("127.0.0.2", str(job)) == usual


def test_no_port_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "PORTS", range(20000, 20003))
    monkeypatch.setattr(step, "_taken", lambda head, port: True)
    with pytest.raises(EnvironmentFailure, match="ports 20000 to 20002 of n1 are all taken"):
        meeting_port("n1", "12")


def addresses(**names: list[str]) -> object:
    """A table of hosts: what a name stands for; an address stands for itself."""

    def look_up(name: str, port: None) -> list[tuple[object, ...]]:
        found = names.get(name, [name] if name[0].isdigit() or ":" in name else None)
        if found is None:
            raise socket.gaierror(f"{name} is not known")
        return [(None, None, None, "", (address, 0)) for address in found]

    return look_up


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("127.0.0.1", "127.0.0.1"),  # all are on this machine
        ("named", "127.0.0.9"),
        ("loopback", ""),  # as Debian's table has a machine's own name
        ("several", ""),  # others may have taken any of them
        ("192.0.2.7", ""),  # of a machine that forwards
        ("unknown", ""),
    ],
)
def test_the_head_listens_at_the_address_that_others_know(
    name: str, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {
        "named": ["127.0.0.9"], "loopback": ["127.0.1.1"], "several": ["127.0.0.1", "127.0.0.2"],
    }  # fmt: skip
    monkeypatch.setattr(socket, "getaddrinfo", addresses(**table))
    loopback = processes._is_loopback
    monkeypatch.setattr(
        processes, "_is_loopback", lambda text: text != "127.0.0.9" and loopback(text)
    )
    assert own_address(name) == own
    there = Processes(nodes=2, each=1, head=name, port=20001)
    assert there.meeting_point == f"{name}:20001"
    assert there.listens_at == (f"{own}:20001" if own else "[::]:20001")


def test_it_reaches_the_stage_by_its_environment() -> None:
    sent = Processes(nodes=2, each=4, head="10.0.0.1", port=20042)
    got = Processes.from_environment({**sent.environment, "ESPALIER_NODE": "1"})
    assert (got.head, got.port, got.node) == ("10.0.0.1", 20042, 1)
    assert Processes.from_environment({}).port == USUAL_PORT
    assert "ESPALIER_PORT" not in Processes(nodes=2).environment
    assert Processes(head="fd00::1", port=9).meeting_point == "[fd00::1]:9"
