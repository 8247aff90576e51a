"""The launcher against a server that speaks the API, through all that may happen to a run.

The server's fixture asserts after each test that no queued resource is left.
"""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from espalier.errors import EnvironmentFailure, InputError, Interrupted
from espalier.host.runtimes.tpu_vm.attempt import verdict
from espalier.host.runtimes.tpu_vm.launcher import Launcher
from espalier.host.runtimes.tpu_vm.records import Exit
from espalier.host.runtimes.tpu_vm.request import SLACK, bucket_label, tpu_name
from espalier.host.runtimes.tpu_vm.stops import Stop
from tests.tpu.conftest import OWNER
from tests.tpu.fake_server import FakeServer
from tests.tpu.workers import Worker, Workers, half, phase, succeeds

Make = Callable[..., Launcher]
FIRST, SECOND = tpu_name("run-1", OWNER, 1), tpu_name("run-1", OWNER, 2)


def test_four_workers_succeed(
    server: FakeServer, workers: Workers, launcher: Make, bucket: Path
) -> None:
    said: list[str] = []
    assert launcher(said=said).follow() == 0
    assert server.created == [FIRST]
    assert (bucket / "runs/run-1/output/result.txt").read_text() == "made at attempt 1"
    assert phase(bucket) == "done"
    assert any("of 4 workers" in text or "4 of 4 workers" in text for text in said)
    assert said[-1] == f"Deleted {FIRST}."


def test_what_is_asked_for(
    server: FakeServer, workers: Workers, launcher: Make, bucket: Path
) -> None:
    seen = []
    server.active = lambda each: (seen.append(each), workers.up(each))[0]
    launcher().follow()
    spec = seen[0].resource.tpu.node_spec[0]
    assert dict(spec.node.labels) == {
        "espalier": "managed",
        "espalier-run": "run-1",
        "espalier-owner": OWNER,
        "espalier-bucket": bucket_label(str(bucket)),
    }
    assert seen[0].resource.queueing_policy.valid_until_duration == timedelta(seconds=5 + SLACK)
    assert spec.node.accelerator_type == "v5litepod-16"
    assert spec.node.runtime_version == "v2-alpha-tpuv5-lite"
    assert "spot" in seen[0].resource
    assert set(spec.node.metadata) == {"startup-script"}  # and so no key of ssh
    assert len(seen[0].script) < 256 << 10


def preempted(server: FakeServer, node: bool = False) -> Callable[[Worker], int | None]:
    """Work that the cloud takes its hosts from."""

    def work(worker: Worker) -> int | None:
        worker.goes_on(0.1)
        if worker.number == 0:
            name = server.names[0]
            if node:
                next(iter(server.slices.values())).node = "PREEMPTED"
            else:
                server.set_state(name, "SUSPENDED")
        return None

    return work


def test_preempted_twice(
    server: FakeServer, workers: Workers, launcher: Make, bucket: Path
) -> None:
    workers.works = [preempted(server), preempted(server, node=True), succeeds]
    said: list[str] = []
    assert launcher(said=said).follow() == 0
    assert server.created == [tpu_name("run-1", OWNER, n) for n in (1, 2, 3)]
    assert (bucket / "runs/run-1/output/result.txt").read_text() == "made at attempt 3"
    assert sum("was pre-empted; requesting another TPU" in text for text in said) == 2


def test_workers_that_are_killed_with_their_hosts_are_preempted(
    server: FakeServer, workers: Workers, launcher: Make
) -> None:
    def killed(worker: Worker) -> int | None:
        worker.end(137)
        if worker.number == 3:
            time.sleep(0.1)
            server.set_state(FIRST, "SUSPENDING")
        return None

    workers.works = [killed, succeeds]
    assert launcher().follow() == 0
    assert server.created == [FIRST, SECOND]


def test_preempted_for_ever(server: FakeServer, workers: Workers, launcher: Make) -> None:
    workers.works = [preempted(server)]
    with pytest.raises(Interrupted, match="was pre-empted, and that was TPU 2 of at most 2"):
        launcher(attempts=2).follow()
    assert len(server.created) == 2


def test_no_quota(server: FakeServer, launcher: Make, bucket: Path) -> None:
    message = "Quota limit 'TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI' has been exceeded."
    server.refusal = (grpc.StatusCode.RESOURCE_EXHAUSTED, message)
    with pytest.raises(EnvironmentFailure, match=r"quota of project .*TPUV5s.*tpu-reap") as caught:
        launcher().follow()
    assert str(caught.value).count(". ") == 0  # one sentence
    assert server.created == []
    assert phase(bucket) == "failed"


def test_no_quota_said_late(server: FakeServer, launcher: Make) -> None:
    server.reason, server.plans = "Quota exceeded for chips.", [("ACCEPTED", "FAILED")]
    with pytest.raises(EnvironmentFailure, match="quota of project in us-west4-a is too small"):
        launcher().follow()
    assert server.created == [FIRST]


def test_no_quota_for_an_operation(server: FakeServer, launcher: Make) -> None:
    server.late_refusal = (grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded.")
    with pytest.raises(EnvironmentFailure, match="quota of project in us-west4-a is too small"):
        launcher().follow()


def test_no_permission(server: FakeServer, launcher: Make) -> None:
    server.refusal = (grpc.StatusCode.PERMISSION_DENIED, "tpu.nodes.create is denied")
    with pytest.raises(EnvironmentFailure, match=r"lack a permission in project.*roles/tpu\.admin"):
        launcher().follow()


def test_a_request_that_the_api_refuses(server: FakeServer, launcher: Make) -> None:
    server.refusal = (grpc.StatusCode.INVALID_ARGUMENT, "no such runtime version")
    with pytest.raises(InputError, match=r"refuses this: .*no such runtime version"):
        launcher().follow()


def test_a_failure_of_the_cloud_is_tried_thrice(server: FakeServer, launcher: Make) -> None:
    server.reason, server.plans = "internal error", [("ACCEPTED", "FAILED")] * 5
    with pytest.raises(Interrupted, match="internal error"):
        launcher().follow()
    assert len(server.created) == 3


def test_stuck_waiting_for_capacity(server: FakeServer, launcher: Make) -> None:
    server.plans = [("ACCEPTED", "WAITING_FOR_RESOURCES")]
    with pytest.raises(EnvironmentFailure, match=r"no capacity .*TPU_DEADLINE=.*WAITING_FOR"):
        launcher(deadline=0.4).follow()
    assert server.created == [FIRST]


def test_half_of_the_workers_are_silent(
    server: FakeServer, workers: Workers, launcher: Make
) -> None:
    workers.works = [half, succeeds]
    said: list[str] = []
    assert launcher(said=said).follow() == 0
    assert any("2 of 4 workers reported, 2 of 4 are ready" in text for text in said)
    assert any("workers 1, 3 of 4 did not report; requesting another" in text for text in said)
    assert server.created == [FIRST, SECOND]


def test_workers_that_stay_silent(server: FakeServer, workers: Workers, launcher: Make) -> None:
    workers.works = [half]
    with pytest.raises(Interrupted, match=r"workers 1, 3 of 4 did not report.*to resume"):
        launcher().follow()
    assert len(server.created) == 3


def test_a_bad_network(server: FakeServer, workers: Workers, launcher: Make) -> None:
    unavailable, late = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED
    server.failures = [unavailable, late, unavailable]
    server.lose_replies = 1  # it was carried out all the same: the request's id says so
    shaken = server.active

    def shake(each: object) -> None:
        server.failures = [unavailable, late] * 3
        shaken(each)  # type: ignore[arg-type]

    server.active = shake
    assert launcher().follow() == 0
    assert server.created == [FIRST]
    assert server.calls.count("create") == 5


def test_the_api_is_away_for_longer_than_a_call_is_repeated(
    server: FakeServer, workers: Workers, launcher: Make
) -> None:
    server.plans = [("ACCEPTED", "PROVISIONING", "ACTIVE")]
    shaken = server.active

    def shake(each: object) -> None:
        server.failures = [grpc.StatusCode.DATA_LOSS] * 4  # which no call is repeated for
        shaken(each)  # type: ignore[arg-type]

    server.active = shake
    said: list[str] = []
    assert launcher(said=said).follow() == 0
    assert any("does not answer" in text for text in said)


def test_one_worker_fails_and_the_others_hang(
    server: FakeServer, workers: Workers, launcher: Make, bucket: Path
) -> None:
    def fails(worker: Worker) -> int | None:
        if worker.number == 2:
            worker.put("logs/2.log", "espalier: TOKENS=0 is too few.\n")
            return 2
        worker.goes_on(10)
        return 75 if worker.asked_to_stop else None

    workers.works = [fails]
    said: list[str] = []
    assert launcher(said=said).follow() == 2
    assert "espalier: TOKENS=0 is too few.\nWorker 2 ended in 2." in said
    assert phase(bucket) == "failed"


@pytest.mark.parametrize(
    ("codes", "verdict_is"),
    [
        ({0: 0, 1: 0}, 0),
        ({0: 75, 1: 3}, 3),
        ({0: 137, 1: 2}, 2),
        ({0: 1, 1: 75}, 1),
        ({0: 137, 1: 75}, 137),
        ({0: 0}, 75),
        ({0: 143, 1: 0}, 75),
    ],
)
def test_the_code_that_says_most(codes: dict[int, int], verdict_is: int) -> None:
    assert verdict({n: Exit(code=code) for n, code in codes.items()}, 2) == verdict_is


def test_stopped_by_its_user(
    server: FakeServer, workers: Workers, launcher: Make, bucket: Path
) -> None:
    def saves(worker: Worker) -> int | None:
        worker.goes_on(20)
        return 75 if worker.asked_to_stop else None

    workers.works = [saves]
    stop = Stop()
    threading.Timer(0.5, stop.set).start()
    with pytest.raises(
        Interrupted, match=r"4 of 4 workers have saved; run the same command to resume"
    ):
        launcher(stop=stop).follow()
    assert phase(bucket) == "stopped"
    workers.works = [succeeds]
    assert launcher().follow() == 0
    assert server.created == [FIRST, SECOND]


def test_a_tpu_that_is_kept(server: FakeServer, workers: Workers, launcher: Make) -> None:
    said: list[str] = []
    running = launcher(keep=True, said=said)
    assert running.follow() == 0
    assert server.names == [FIRST]
    assert said[-1] == f"{FIRST} is kept, and costs; make tpu-down NAME={FIRST} deletes it."
    running.api.delete(FIRST, OWNER)


def test_a_stage_that_ends_by_itself_is_not_tried_again(
    server: FakeServer, workers: Workers, launcher: Make, bucket: Path
) -> None:
    """As where a loss is NaN: the next slice would come to the same."""

    def diverges(worker: Worker) -> int | None:
        worker.put(f"logs/{worker.number}.log", "espalier: the loss became NaN or infinite.\n")
        return 75

    workers.works = [diverges]
    said: list[str] = []
    assert launcher(said=said).follow() == 75
    assert server.created == [FIRST]
    assert any("NaN or infinite" in text for text in said)
    assert phase(bucket) == "failed"


def test_a_worker_that_saves_the_result_is_waited_for(
    server: FakeServer, workers: Workers, launcher: Make, bucket: Path
) -> None:
    def slow(worker: Worker) -> int | None:
        if worker.number:
            return 0
        deadline = time.monotonic() + 3  # twice what stragglers have
        while time.monotonic() < deadline:
            worker.beat("saving")
            if worker.gone.wait(0.05):
                return None
        return 75 if worker.asked_to_stop else succeeds(worker)

    workers.works = [slow]
    assert launcher(deadline=30).follow() == 0
    assert server.created == [FIRST]
