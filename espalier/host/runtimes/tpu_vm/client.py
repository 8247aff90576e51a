"""The TPU API by its own client: calls repeated over a bad network, refusals in a sentence."""

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from espalier.errors import EnvironmentFailure, EspalierError, InputError
from espalier.host.runtimes.tpu_vm.options import Location
from espalier.host.runtimes.tpu_vm.request import LABELS
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
    """Queued resources of one project and zone."""

    place: Location
    timings: Timings

    def create(self, request: Any) -> bool:
        """Ask for a TPU; False where it was asked for already.

        Raises:
            EspalierError: it is refused, for example because the quota is too small.
        """
        from google.api_core.exceptions import AlreadyExists, NotFound

        try:
            with _told(self.place):
                operation = self._client.create_queued_resource(request, **self._patience)
                self._finish(operation, self.timings.retry)
        except AlreadyExists:
            return False
        except NotFound as error:
            raise InputError(
                f"{self.place.parent} cannot have it: {_sentence(error.message)}; see "
                "PROJECT, ZONE and TPU."
            ) from None
        return True

    def state(self, name: str) -> State:
        """What became of it."""
        from google.api_core.exceptions import NotFound

        try:
            with _told(self.place):
                path = f"{self.place.parent}/queuedResources/{name}"
                found = self._client.get_queued_resource(name=path, **self._patience)
        except NotFound:
            return State("ABSENT")
        state = State(found.state.state.name, found.state.failed_data.error.message)
        if state.name == "ACTIVE" and self._node(found) in LOST_NODE:
            return State("PREEMPTED")
        return state

    def delete(self, name: str) -> bool:
        """Delete it and its node, whatever state they are in; False where there is none."""
        from google.api_core.exceptions import NotFound
        from google.cloud import tpu_v2

        request = tpu_v2.DeleteQueuedResourceRequest(
            name=f"{self.place.parent}/queuedResources/{name}",
            request_id=str(uuid.uuid4()),
            force=True,
        )
        try:
            with _told(self.place):
                operation = self._client.delete_queued_resource(request, **self._patience)
                self._finish(operation, self.timings.delete)
        except NotFound:
            return False
        return True

    def ours(self) -> list[Any]:
        """The queued resources that this tool has made."""
        with _told(self.place):
            pages = self._client.list_queued_resources(parent=self.place.parent, **self._patience)
            return [found for found in pages if _labelled(found)]

    def _node(self, resource: Any) -> str:
        from google.api_core.exceptions import NotFound

        name = f"{self.place.parent}/nodes/{resource.tpu.node_spec[0].node_id}"
        try:
            with _told(self.place):
                return str(self._client.get_node(name=name, **self._patience).state.name)
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

    @property
    def _patience(self) -> dict[str, Any]:
        return {"retry": self._retry, "timeout": min(60.0, self.timings.retry)}

    @cached_property
    def _retry(self) -> Any:
        from google.api_core import exceptions, retry

        return retry.Retry(
            retry.if_exception_type(*(getattr(exceptions, name) for name in PASSING)),
            initial=self.timings.poll / 5,
            maximum=self.timings.poll_most,
            timeout=self.timings.retry,
        )

    def _finish(self, operation: Any, seconds: float) -> None:
        """Until the API has carried it out."""
        from google.api_core.future.polling import DEFAULT_POLLING

        often = DEFAULT_POLLING.with_delay(self.timings.poll / 5, self.timings.poll_most)
        operation.result(timeout=seconds, retry=self._retry, polling=often)


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


def _labelled(resource: Any) -> bool:
    return any(LABELS.items() <= dict(spec.node.labels).items() for spec in resource.tpu.node_spec)


def _sentence(text: str) -> str:
    return (text.strip().splitlines() or ["it does not say why"])[0].rstrip(".")
