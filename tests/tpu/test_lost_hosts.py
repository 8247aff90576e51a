"""Slices that lose a host: what the other workers end in, and what the launcher makes of it."""

import threading
from collections.abc import Callable

import pytest

from espalier.errors import Interrupted
from espalier.host.runtimes.tpu_vm.launcher import Launcher
from espalier.host.runtimes.tpu_vm.request import tpu_name
from espalier.host.runtimes.tpu_vm.stops import Stop
from tests.tpu.conftest import OWNER
from tests.tpu.fake_server import FakeServer
from tests.tpu.workers import Worker, Workers, succeeds

FIRST, SECOND = tpu_name("run-1", OWNER, 1), tpu_name("run-1", OWNER, 2)
Make = Callable[..., Launcher]


def test_a_host_that_crashes_as_another_is_taken_away_is_preempted(
    server: FakeServer, workers: Workers, launcher: Make
) -> None:
    """The first sign of a pre-emption may be what it does to the others' programs."""

    def crashes(worker: Worker) -> int | None:
        if worker.number != 2:
            return None
        threading.Timer(0.3, server.set_state, (FIRST, "SUSPENDING")).start()
        return 134

    workers.works = [crashes, succeeds]
    assert launcher(attempts=2).follow() == 0
    assert server.created == [FIRST, SECOND]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("code", [1, 134, 137])
def test_the_peers_of_a_lost_host_end_in_whatever_code(
    server: FakeServer, workers: Workers, launcher: Make, code: int, again: bool
) -> None:
    """The API says that the slice is active; the host has gone for good, or starts again."""

    def aborts(worker: Worker) -> int | None:
        if worker.number != 2:
            return code
        if again:
            worker.end(75, "its host was started again")
        return None

    workers.works = [aborts, succeeds]
    said: list[str] = []
    assert launcher(said=said).follow() == 0
    assert server.created == [FIRST, SECOND]
    assert any("the stage was interrupted" in text for text in said)


def test_a_stage_that_fails_everywhere_is_not_tried_again(
    server: FakeServer, workers: Workers, launcher: Make
) -> None:
    workers.works = [lambda worker: 134]
    assert launcher().follow() == 134
    assert server.created == [FIRST]


def test_an_image_that_one_worker_cannot_pull_ends_the_run(
    server: FakeServer, workers: Workers, launcher: Make
) -> None:
    def without_image(worker: Worker) -> int | None:
        if worker.number == 1:
            worker.end(3, "the image cannot be pulled")
        else:
            worker.end(75, "the other workers did not get ready")
        return None

    workers.works = [without_image]
    assert launcher().follow() == 3
    assert server.created == [FIRST]


def test_no_other_slice_is_asked_for_once_it_is_to_stop(
    server: FakeServer, workers: Workers, launcher: Make
) -> None:
    """Ctrl-C while the launcher finds out what has become of a host."""
    stop = Stop()

    def vanishes(worker: Worker) -> int | None:
        if worker.number != 2:
            return 134
        stop.wait(5)
        return None

    workers.works = [vanishes]
    threading.Timer(1, stop.set).start()
    with pytest.raises(Interrupted, match="run the same command to resume"):
        launcher(stop=stop).follow()
    assert server.created == [FIRST]
