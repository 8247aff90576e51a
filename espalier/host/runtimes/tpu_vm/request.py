"""The queued resource that is asked for: names, labels, and the request itself."""

import hashlib
import json
import math
import re
import secrets
import uuid
from typing import Any

from espalier.host.runtimes.tpu_vm.options import Wanted
from espalier.host.runtimes.tpu_vm.records import TpuRecord

LABELS = {"espalier": "managed"}
"""Of every TPU that this tool creates, and of no other."""
OWNER, BUCKET = "espalier-owner", "espalier-bucket"
"""Labels of whose it is: the random owner that only its bucket knows, and that bucket."""
LONGEST = 62
SLACK = 120
"""Seconds that a request stays valid after the launcher has given up waiting for it."""
SCOPE = "https://www.googleapis.com/auth/{}"
STATED = ("cloud-platform",)
"""What an account may do that was named for this is its roles' business."""
DEFAULT = ("devstorage.read_write", "logging.write", "monitoring.write")
"""Of the project's own account, which is often its editor: the bucket and the images alone."""


def new_owner() -> str:
    """A run's, or a held TPU's: nobody else comes to the same by chance."""
    return secrets.token_hex(4)


def tpu_name(run_id: str, owner: str, attempt: int) -> str:
    """The same for the same run and attempt: what was created is found again, not made twice.

    Another bucket's run of the same name has another owner, and so another TPU.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", run_id.lower()).strip("-")[:36].rstrip("-")
    return f"espalier-{slug}-{owner}-{attempt}"


def bucket_label(url: str) -> str:
    """A bucket as a label's value: as much of its URL as fits, and a digest of all of it."""
    slug = re.sub(r"[^a-z0-9]+", "-", url.partition("://")[2].lower() or "folder").strip("-")
    return f"{slug[:40].rstrip('-')}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"


def valid_name(name: str) -> bool:
    """Whether the API takes it."""
    return bool(re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)) and len(name) <= LONGEST


def creation(
    wanted: Wanted, script: str, record: TpuRecord, seconds: float, run_id: str = ""
) -> Any:
    """The request of the client's own types, for the TPU of that record.

    It ends by itself where there is no capacity within `seconds`, whoever waits for it. It has the
    same id however often the TPU that was announced then is asked for, even by another process:
    the API carries it out once.
    """
    from google.cloud import tpu_v2
    from google.protobuf.duration_pb2 import Duration

    name, bucket = record.name, wanted.place.bucket.url
    identity = f"{bucket}/tpus/{name}/{record.created.isoformat()}"
    labels = {**LABELS, OWNER: record.owner, BUCKET: bucket_label(bucket)}
    if run_id:
        labels["espalier-run"] = _label(run_id)
    scopes = STATED if wanted.service_account else DEFAULT
    node = tpu_v2.Node(
        accelerator_type=wanted.tpu.type,
        runtime_version=wanted.tpu.generation.runtime_version,
        network_config=tpu_v2.NetworkConfig(
            network=wanted.network, enable_external_ips=wanted.external_ip
        ),
        service_account=tpu_v2.ServiceAccount(
            email=wanted.service_account, scope=[SCOPE.format(each) for each in scopes]
        ),
        labels=labels,
        metadata={"startup-script": script},
    )
    spec = tpu_v2.QueuedResource.Tpu.NodeSpec(parent=wanted.place.parent, node_id=name, node=node)
    resource = tpu_v2.QueuedResource(tpu=tpu_v2.QueuedResource.Tpu(node_spec=[spec]))
    valid = Duration(seconds=math.ceil(seconds + SLACK))
    resource.queueing_policy = tpu_v2.QueuedResource.QueueingPolicy(valid_until_duration=valid)
    if wanted.spot:
        resource.spot = tpu_v2.QueuedResource.Spot()
    return tpu_v2.CreateQueuedResourceRequest(
        parent=wanted.place.parent,
        queued_resource_id=name,
        queued_resource=resource,
        request_id=str(uuid.uuid5(uuid.NAMESPACE_URL, identity)),
    )


def shown(request: Any) -> str:
    """The request as DRY_RUN=1 prints it, without the script and what is empty."""
    said = type(request).to_dict(request, use_integers_for_enums=False)
    said["queued_resource"]["tpu"]["node_spec"][0]["node"]["metadata"] = {"startup-script": "below"}
    return json.dumps(_filled(said), indent=1)


def _filled(value: Any) -> Any:
    """Without fields that are unset. `spot: {}` is a choice, and stays."""
    if isinstance(value, list):
        return [_filled(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _filled(each) for key, each in value.items() if each is not None}
    return {key: each for key, each in kept.items() if key == "spot" or not _unset(each)}


def _unset(value: Any) -> bool:
    return value in ("", [], {}, None, False, 0, "0") or str(value).endswith("_UNSPECIFIED")


def _label(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower())[:63]
