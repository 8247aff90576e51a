"""The types of TPU that there are, and the request for one."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from espalier.errors import InputError
from espalier.hardware.tpus import tpu_named
from espalier.host.runtimes.tpu_vm.options import Wanted
from espalier.host.runtimes.tpu_vm.request import bucket_label, creation
from espalier.host.runtimes.tpu_vm.tpu_folder import TpuFolder


def test_a_creation_has_an_id_of_its_own(wanted: Wanted) -> None:
    """Asked for again, it is the same; a later one by the same name is another."""
    announced = TpuFolder(wanted.place.bucket, "mine").planned(wanted, "owner", kept=False)
    first, again = [creation(wanted, "#!", announced, 60).request_id for _ in range(2)]
    after = announced.model_copy(update={"created": announced.created + timedelta(hours=1)})
    later = creation(wanted, "#!", after, 60).request_id
    assert first == again != later
    assert len(first) == 36


def test_what_is_said_before_it_is_created(wanted: Wanted) -> None:
    assert wanted.describe() == (
        "v5litepod-16 spot in us-west4-a: 16 chips, 4 workers; 19.20 USD an hour on demand (list "
        "price of 2025, less when spot); takes quota for 16 preemptible v5e chips in project."
    )


@pytest.mark.parametrize("account", ["", "trainer@project.iam.gserviceaccount.com"])
def test_an_account_gets_the_smallest_scopes(wanted: Wanted, account: str) -> None:
    """The project's own, often its editor, may use the storage; another's roles say what it may."""
    asked = replace(wanted, service_account=account, external_ip=False)
    record = TpuFolder(wanted.place.bucket, "mine").planned(asked, "owner", kept=False)
    node = creation(asked, "#!", record, 60).queued_resource.tpu.node_spec[0].node
    scopes = [scope.rpartition("/")[2] for scope in node.service_account.scope]
    stated, default = ["cloud-platform"], ["devstorage.read_write", "logging.write"]
    assert scopes[:2] == (stated if account else default)
    assert ("cloud-platform" in scopes) is bool(account)
    assert bool(asked.account_warning) is not bool(account)
    assert not node.network_config.enable_external_ips


@pytest.mark.parametrize("seconds", [0.5, 60, 3600])
def test_every_request_ends_by_itself(wanted: Wanted, seconds: float) -> None:
    """After the launcher has given up, so that it says why."""
    record = TpuFolder(wanted.place.bucket, "mine").planned(wanted, "owner", kept=False)
    resource = creation(wanted, "#!", record, seconds).queued_resource
    valid = resource.queueing_policy.valid_until_duration.total_seconds()
    assert seconds < valid <= seconds + 600


def test_two_buckets_have_two_labels() -> None:
    urls = ["gs://a/b", "gs://a-b", "gs://a/" + "b" * 99, "gs://a/" + "b" * 98 + "c", "/a/b", ""]
    labels = {bucket_label(url) for url in urls}
    assert len(labels) == len(urls)
    assert all(re.fullmatch(r"[a-z0-9_-]{1,63}", label) for label in labels)


@pytest.mark.parametrize(
    ("name", "chips", "workers", "topology", "dollars"),
    [
        ("v4-8", 4, 1, "v4-8", 12.88),
        ("v4-16", 8, 2, "v4-16", 25.76),
        ("v5litepod-1", 1, 1, "v5e-1", 1.20),
        ("v5litepod-8", 8, 1, "v5e-8", 9.60),
        ("v5litepod-16", 16, 4, "v5e-16", 19.20),
        ("v5p-24", 12, 3, "v5p-24", 50.40),
        ("v6e-256", 256, 64, "v6e-256", 691.20),
    ],
)
def test_tpus(name: str, chips: int, workers: int, topology: str, dollars: float) -> None:
    tpu = tpu_named(name)
    assert (tpu.chips, tpu.workers, tpu.topology) == (chips, workers, topology)
    assert tpu.dollars_per_hour == pytest.approx(dollars)
    assert tpu.chips_per_worker * tpu.workers == chips


@pytest.mark.parametrize("name", ["v5e-16", "v5litepod-12", "v4-4", "v6e-", "v5p-x", "", "v4-²"])
def test_unknown_tpus(name: str) -> None:
    with pytest.raises(
        InputError, match=r"is not known; choose one of v4-8 .*v5litepod-1\|4\|8\|16"
    ):
        tpu_named(name)
