"""The queued resource that is asked for: names, labels, and the request itself."""

import hashlib
import re
import uuid
from datetime import datetime
from typing import Any

from espalier.contract.json_text import to_json
from espalier.host.runtimes.tpu_vm.options import Wanted

LABELS = {"espalier": "managed"}
"""Of every TPU that this tool creates, and of no other."""
LONGEST = 62
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
"""What the VM's service account may do is its roles' business."""


def tpu_name(run_id: str, attempt: int) -> str:
    """The same for the same run and attempt: what was created is found again, not made twice."""
    digest = hashlib.sha256(run_id.encode()).hexdigest()[:8]
    slug = re.sub(r"[^a-z0-9]+", "-", run_id.lower()).strip("-")[:36].rstrip("-")
    return f"espalier-{slug}-{digest}-{attempt}"


def valid_name(name: str) -> bool:
    """Whether the API takes it."""
    return bool(re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)) and len(name) <= LONGEST


def creation(wanted: Wanted, name: str, script: str, announced: datetime, run_id: str = "") -> Any:
    """The request of the client's own types.

    It has the same id however often the TPU that was announced then is asked for, even by another
    process: the API carries it out once.
    """
    from google.cloud import tpu_v2

    identity = f"{wanted.place.bucket.url}/tpus/{name}/{announced.isoformat()}"
    labels = {**LABELS, "espalier-run": _label(run_id)} if run_id else LABELS
    node = tpu_v2.Node(
        accelerator_type=wanted.tpu.type,
        runtime_version=wanted.tpu.generation.runtime_version,
        network_config=tpu_v2.NetworkConfig(network=wanted.network, enable_external_ips=True),
        service_account=tpu_v2.ServiceAccount(email=wanted.service_account, scope=[SCOPE]),
        labels=labels,
        metadata={"startup-script": script},
    )
    spec = tpu_v2.QueuedResource.Tpu.NodeSpec(parent=wanted.place.parent, node_id=name, node=node)
    resource = tpu_v2.QueuedResource(tpu=tpu_v2.QueuedResource.Tpu(node_spec=[spec]))
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
    return to_json(_filled(said), indent=1)


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
