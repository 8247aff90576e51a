"""A server on this machine that speaks the TPU API: queued resources, nodes and operations."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.cloud import tpu_v2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2, timestamp_pb2
from google.rpc import status_pb2

STATES = tpu_v2.QueuedResourceState.State
COMES_UP = ("ACCEPTED", "PROVISIONING", "ACTIVE")
DELETABLE = (STATES.ACCEPTED, STATES.WAITING_FOR_RESOURCES, STATES.SUSPENDED, STATES.FAILED)
"""Without force."""


@dataclass
class Slice:
    """A queued resource, the states that it has still to go through, and its node's."""

    resource: Any
    ahead: list[str]
    node: str = "READY"
    reason: str = ""

    @property
    def name(self) -> str:
        return str(self.resource.name).rpartition("/")[2]

    @property
    def script(self) -> str:
        return str(self.resource.tpu.node_spec[0].node.metadata["startup-script"])

    def step(self) -> None:
        """Into its next state, as it is looked at."""
        if self.ahead:
            self.put(self.ahead.pop(0))

    def put(self, state: str) -> None:
        self.resource.state.state = STATES[state]
        if state == "FAILED":
            self.resource.state.failed_data.error.message = self.reason


@dataclass
class FakeServer:
    """What it holds, what it has been asked, and what it is to do wrong.

    Attributes:
        plans: for each creation, the states that it goes through; COMES_UP after the last of them.
        failures: status codes of the next calls, whichever they are.
        refusal: of every creation: a status code and what it says; the late one, of its operation.
        deletion, looks: at an operation: instead of the server's own.
        lose_replies: how many creations are carried out, and not answered.
        active, deleted: called when a slice is up, and when it is gone.
    """

    plans: list[Sequence[str]] = field(default_factory=list)
    failures: list[grpc.StatusCode] = field(default_factory=list)
    refusal: tuple[grpc.StatusCode, str] | None = None
    late_refusal: tuple[grpc.StatusCode, str] | None = None
    reason: str = ""
    active: Callable[[Slice], None] = lambda each: None
    deleted: Callable[[Slice], None] = lambda each: None
    deletion: Callable[[Any, Any], Any] | None = None
    looks: Callable[[Any, Any], Any] | None = None
    lose_replies: int = 0
    slices: dict[str, Slice] = field(default_factory=dict)
    created: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    port: int = 0
    _by_request: dict[str, str] = field(default_factory=dict)
    _operations: dict[str, Any] = field(default_factory=dict)
    _up: set[str] = field(default_factory=set)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def create(self, request: Any, context: Any) -> Any:
        with self._lock:
            self._begin("create", context)
            name = f"{request.parent}/queuedResources/{request.queued_resource_id}"
            if request.request_id in self._by_request:
                return self._operations[self._by_request[request.request_id]]
            if self.refusal:
                context.abort(*self.refusal)
            if name in self.slices:
                context.abort(grpc.StatusCode.ALREADY_EXISTS, f"{name} already exists")
            resource = request.queued_resource
            resource.name = name
            resource.create_time = timestamp_pb2.Timestamp()
            tpu_v2.QueuedResource.pb(resource).create_time.GetCurrentTime()
            plan = self.plans.pop(0) if self.plans else COMES_UP
            self.slices[name] = Slice(resource, list(plan), reason=self.reason)
            self.slices[name].step()
            self.created.append(request.queued_resource_id)
            operation = self._operation(resource)
            self._by_request[request.request_id] = operation.name
            if self.lose_replies:
                self.lose_replies -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "the reply was lost")
            return operation

    def get(self, request: Any, context: Any) -> Any:
        with self._lock:
            self._begin("get", context)
            found = self._found(request.name, context)
            found.step()
            if found.resource.state.state == STATES.ACTIVE and found.name not in self._up:
                self._up.add(found.name)
                self.active(found)
            return found.resource

    def get_node(self, request: Any, context: Any) -> Any:
        with self._lock:
            self._begin("node", context)
            name = request.name.replace("/nodes/", "/queuedResources/")
            found = self._found(name, context)
            return tpu_v2.Node(name=request.name, state=tpu_v2.Node.State[found.node])

    def page(self, request: Any, context: Any) -> Any:
        with self._lock:
            self._begin("list", context)
            found = [s.resource for n, s in self.slices.items() if n.startswith(request.parent)]
            return tpu_v2.ListQueuedResourcesResponse(queued_resources=found)

    def delete(self, request: Any, context: Any) -> Any:
        with self._lock:
            self._begin("delete", context)
            found = self._found(request.name, context)
            if not request.force and found.resource.state.state not in DELETABLE:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it is in use; force it")
            del self.slices[request.name]
            self._up.discard(found.name)
            self.deleted(found)
            return self._operation(None)

    def remove(self, request: Any, context: Any) -> Any:
        return (self.deletion or self.delete)(request, context)

    def look(self, request: Any, context: Any) -> Any:
        return (self.looks or self.operation)(request, context)

    def operation(self, request: Any, context: Any) -> Any:
        """Done at the second look, or failed."""
        with self._lock:
            self._begin("operation", context)
            operation = self._operations[request.name]
            operation.done = True
            if self.late_refusal:
                code, message = self.late_refusal
                operation.error.CopyFrom(status_pb2.Status(code=code.value[0], message=message))
                self.slices.clear()
            return operation

    def _begin(self, call: str, context: Any) -> None:
        self.calls.append(call)
        if self.failures:
            context.abort(self.failures.pop(0), "the network is bad")

    def _found(self, name: str, context: Any) -> Slice:
        if name not in self.slices:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{name} was not found")
        return self.slices[name]

    def _operation(self, resource: Any) -> Any:
        operation = operations_pb2.Operation(name=f"operations/{len(self._operations)}")
        made = tpu_v2.QueuedResource.pb(resource) if resource else empty_pb2.Empty()
        operation.response.Pack(made)
        self._operations[operation.name] = operation
        return operation

    def set_state(self, name: str, state: str) -> None:
        """As if the cloud had done it."""
        with self._lock:
            (found,) = [each for each in self.slices.values() if each.name == name]
            found.ahead = []
            found.put(state)

    def forget_requests(self) -> None:
        """As the API does after a while."""
        with self._lock:
            self._by_request.clear()

    @property
    def names(self) -> list[str]:
        """Of what is there now."""
        with self._lock:
            return [each.name for each in self.slices.values()]


def _method(function: Any, request: Any, response: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        function,
        request_deserializer=request,
        response_serializer=response,
    )


@contextmanager
def serving(server: FakeServer) -> Iterator[FakeServer]:
    """Until the block ends, on a port of its own."""
    done = operations_pb2.Operation.SerializeToString
    create, get = tpu_v2.CreateQueuedResourceRequest, tpu_v2.GetQueuedResourceRequest
    delete, listed = tpu_v2.DeleteQueuedResourceRequest, tpu_v2.ListQueuedResourcesRequest
    resource, answer = tpu_v2.QueuedResource, tpu_v2.ListQueuedResourcesResponse
    methods = {
        "CreateQueuedResource": _method(server.create, create.deserialize, done),
        "GetQueuedResource": _method(server.get, get.deserialize, resource.serialize),
        "ListQueuedResources": _method(server.page, listed.deserialize, answer.serialize),
        "DeleteQueuedResource": _method(
            server.remove,
            delete.deserialize,
            done,
        ),
        "GetNode": _method(
            server.get_node, tpu_v2.GetNodeRequest.deserialize, tpu_v2.Node.serialize
        ),
    }
    operations = {
        "GetOperation": _method(server.look, operations_pb2.GetOperationRequest.FromString, done)
    }
    running = grpc.server(futures.ThreadPoolExecutor(8))
    running.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("google.cloud.tpu.v2.Tpu", methods),
            grpc.method_handlers_generic_handler("google.longrunning.Operations", operations),
        )
    )
    server.port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    try:
        yield server
    finally:
        running.stop(None)
