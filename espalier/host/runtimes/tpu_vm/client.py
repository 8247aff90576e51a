"""The TPU API by its own client: calls that end, are made again, and refused in a sentence."""

import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from espalier.errors import EnvironmentFailure, EspalierError, InputError
from espalier.host.runtimes.tpu_vm.options import Location
from espalier.host.runtimes.tpu_vm.request import BUCKET, LABELS, OWNER, bucket_label
from espalier.host.runtimes.tpu_vm.stops import Stop
from espalier.host.runtimes.tpu_vm.timings import Timings

ENDPOINT = "ESPALIER_TPU_ENDPOINT"
"""host:port of another server that speaks the API, without encryption: the tests' own."""
PASSING = ("ServiceUnavailable", "DeadlineExceeded", "InternalServerError", "Aborted", "Unknown")
"""Failures of the API's own that another call may not meet; each call can be made again."""
LOST_NODE = ("PREEMPTED", "TERMINATED", "STOPPED")


@dataclass(frozen=True)
class State:
    """Of a queued resource, by the API's names; ABSENT is none, PREEMPTED its node's.

    Attributes:
        reason: why it failed, as the API says it.
    """

    name: str
    reason: str = ""

    @property
    def lost(self) -> bool:
        return self.name in ("ABSENT", "PREEMPTED", "SUSPENDING", "SUSPENDED", "FAILED", "DELETING")


@dataclass(frozen=True)
class TpuApi:
    """Queued resources of one project and zone.

    What has not the labels of this tool, the bucket and its owner is never deleted or taken.

    Attributes:
        stop: whoever asks for the end is not kept waiting for the API.
    """

    place: Location
    timings: Timings
    stop: Stop = field(default_factory=Stop)

    def create(self, request: Any) -> bool:
        """Ask for a TPU; False where it was asked for already, by the same owner.

        Raises:
            EspalierError: it is refused, for example because the quota is too small, or because
                the name is another owner's.
        """
        from google.api_core.exceptions import AlreadyExists, NotFound

        try:
            with _told(self.place):
                operation = self._client.create_queued_resource(request, **self._patience())
                self._finish(operation, self.timings.retry)
        except AlreadyExists:
            name = request.queued_resource_id
            found, asked = self._found(name), request.queued_resource
            if found is None or _labels(found).get(OWNER) == _labels(asked)[OWNER]:
                return False
            raise self._not_ours(name, "so it is not taken") from None
        except NotFound as error:
            raise InputError(
                f"{self.place.parent} cannot have it: {_sentence(error.message)}; see "
                "PROJECT, ZONE and TPU."
            ) from None
        return True

    def state(self, name: str) -> State:
        """What became of it."""
        found = self._found(name)
        return State("ABSENT") if found is None else self.state_of(found)

    def state_of(self, found: Any) -> State:
        """That of a queued resource; of an active one it is its node's."""
        state = State(found.state.state.name, found.state.failed_data.error.message)
        if state.name == "ACTIVE" and self._node(found) in LOST_NODE:
            return State("PREEMPTED")
        return state

    def delete(self, name: str, owner: str) -> bool:
        """Delete it and its node, whatever state they are in; False where there is none.

        Raises:
            InputError: it is there, and is not `owner`'s.
        """
        from google.api_core.exceptions import NotFound
        from google.cloud import tpu_v2

        found = self._found(name, persist=True)
        if found is None:
            return False
        if not self.is_of(found, owner):
            raise self._not_ours(name, "so it is not deleted")
        request = tpu_v2.DeleteQueuedResourceRequest(
            name=f"{self.place.parent}/queuedResources/{name}",
            request_id=str(uuid.uuid4()),
            force=True,
        )
        try:
            with _told(self.place):
                patience = self._patience(persist=True)
                operation = self._client.delete_queued_resource(request, **patience)
                self._finish(operation, self.timings.delete, persist=True)
        except NotFound:
            return False
        return True

    def ours(self) -> list[Any]:
        """The queued resources that this tool has made, with any bucket."""
        with _told(self.place):
            pages = self._client.list_queued_resources(parent=self.place.parent, **self._patience())
            return [found for found in pages if LABELS.items() <= _labels(found).items()]

    def is_of(self, resource: Any, owner: str) -> bool:
        """Whether it has this tool's labels, this bucket's, and that owner's."""
        return bool(owner) and self.is_of_bucket(resource) and _labels(resource)[OWNER] == owner

    def is_of_bucket(self, resource: Any) -> bool:
        """Whether it has this tool's labels, with any owner, and this bucket's."""
        labels = _labels(resource)
        bucket = bucket_label(self.place.bucket.url)
        return LABELS.items() <= labels.items() and labels.get(BUCKET) == bucket and OWNER in labels

    def _not_ours(self, name: str, so: str) -> InputError:
        return InputError(
            f"{name} in {self.place.parent} is not of this BUCKET and owner, {so}; give the BUCKET "
            "that it was made with (its label espalier-bucket), another NAME, or see to it with "
            f"gcloud compute tpus queued-resources describe {name}."
        )

    def _found(self, name: str, *, persist: bool = False) -> Any | None:
        from google.api_core.exceptions import NotFound

        try:
            with _told(self.place):
                path = f"{self.place.parent}/queuedResources/{name}"
                return self._client.get_queued_resource(name=path, **self._patience(persist))
        except NotFound:
            return None

    def _node(self, resource: Any) -> str:
        from google.api_core.exceptions import NotFound

        name = f"{self.place.parent}/nodes/{resource.tpu.node_spec[0].node_id}"
        try:
            with _told(self.place):
                return str(self._client.get_node(name=name, **self._patience()).state.name)
        except NotFound:
            return "TERMINATED"

    @cached_property
    def _client(self) -> Any:
        from google.cloud.tpu_v2 import TpuClient

        if not (endpoint := os.environ.get(ENDPOINT)):
            with _told(self.place):
                return TpuClient()
        import grpc
        from google.auth.credentials import AnonymousCredentials
        from google.cloud.tpu_v2.services.tpu.transports import TpuGrpcTransport

        channel = grpc.insecure_channel(endpoint)
        return TpuClient(
            transport=TpuGrpcTransport(channel=channel, credentials=AnonymousCredentials())
        )

    def _patience(self, persist: bool = False) -> dict[str, Any]:
        """For one call; a user who asks for the end ends its repetition, unless it must persist."""
        from google.api_core import exceptions, retry

        asked = self.stop.is_set()
        passing = retry.if_exception_type(*(getattr(exceptions, name) for name in PASSING))

        def again(error: BaseException) -> bool:
            ended = self.stop.over if persist or asked else self.stop.is_set()
            return passing(error) and not ended

        repeated = retry.Retry(
            again,
            initial=self.timings.poll / 5,
            maximum=self.timings.poll_most,
            timeout=self.stop.at_most(self.timings.retry),
        )
        return {"retry": repeated, "timeout": self.stop.at_most(self.timings.call)}

    def _finish(self, operation: Any, seconds: float, *, persist: bool = False) -> None:
        """Until the API has carried it out; each look at it ends in time, as any call does."""
        from google.api_core.exceptions import from_grpc_status

        began, pause, current = time.monotonic(), self.timings.poll / 5, operation.operation
        while not current.done:
            if time.monotonic() - began > seconds or self.stop.over:
                raise TimeoutError(f"it has not carried this out within {seconds:.0f} s")
            time.sleep(pause)
            pause = min(pause * 1.5, self.timings.poll_most)
            current = self._client.get_operation({"name": current.name}, **self._patience(persist))
        if current.HasField("error"):
            raise from_grpc_status(current.error.code, current.error.message)


def refused(reason: str, place: Location) -> EspalierError | None:
    """What a TPU's own failure means where no other attempt would fare better."""
    if re.search(r"quota", reason, re.IGNORECASE):
        return _quota(reason, place)
    if re.search(r"permission|denied|not authorized", reason, re.IGNORECASE):
        return _permission(reason, place)
    return None


def no_capacity(name: str, state: str, deadline: float) -> EspalierError:
    """A TPU that was still in `state` after `deadline` seconds."""
    return EnvironmentFailure(
        f"no capacity for {name} within TPU_DEADLINE={deadline / 60:g} minutes (state: {state}); "
        "try another ZONE, SPOT=1 or a smaller TPU."
    )


def _quota(reason: str, place: Location) -> EspalierError:
    return EnvironmentFailure(
        f"quota of {place.project} in {place.zone} is too small: {_sentence(reason)}; ask for "
        "more, take a smaller TPU or another ZONE, or free some with make tpu-reap."
    )


def _permission(reason: str, place: Location) -> EspalierError:
    return EnvironmentFailure(
        f"you lack a permission in {place.project}: {_sentence(reason)}; ask for the role "
        "roles/tpu.admin there, and see that the TPU API is enabled."
    )


@contextmanager
def _told(place: Location) -> Iterator[None]:
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except (exceptions.AlreadyExists, exceptions.NotFound):
        raise
    except exceptions.ResourceExhausted as error:
        raise _quota(error.message, place) from None
    except (exceptions.PermissionDenied, exceptions.Forbidden) as error:
        raise _permission(error.message, place) from None
    except (GoogleAuthError, exceptions.Unauthenticated) as error:
        raise EnvironmentFailure(
            f"Google does not know who you are: {_sentence(str(error))}; run gcloud auth "
            "application-default login."
        ) from None
    except (exceptions.InvalidArgument, exceptions.FailedPrecondition) as error:
        raise InputError(f"the TPU API refuses this: {_sentence(error.message)}.") from None
    except (exceptions.RetryError, exceptions.GoogleAPICallError, TimeoutError) as error:
        raise EnvironmentFailure(f"the TPU API does not answer: {_sentence(str(error))}.") from None


def _labels(resource: Any) -> dict[str, str]:
    """Those of its node."""
    return dict(resource.tpu.node_spec[0].node.labels) if resource.tpu.node_spec else {}


def _sentence(text: str) -> str:
    return (text.strip().splitlines() or ["it does not say why"])[0].rstrip(".")
