"""The gRPC services that a container offers: the Open Inference Protocol and health checks."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from . import messages
from .errors import Refusal, described, internal, invalid
from .inference import Call, Model
from .worker import Worker, log

#: What `ServerMetadata` answers.
SERVER_NAME = "skysail-container"
SERVER_VERSION = "0.1.0"

_Handler = Callable[[Any, Any], Awaitable[Any]]


class Service:
    """Handlers of every rpc, for one model."""

    def __init__(self, model: Model, worker: Worker) -> None:
        self._model = model
        self._worker = worker
        #: Why no inference is taken yet, or "".
        self.starting = "the model is being loaded"
        self.draining = False
        #: ModelInfer calls that are not answered yet.
        self.in_flight = 0

    @property
    def ready(self) -> bool:
        """Loaded, not on the way out, and no call beyond the `timeout` setting."""
        return not self.starting and not self.draining and self._worker.overdue() is None

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """What to add to a server."""
        inference = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }
        return [_handler(messages.INFERENCE, inference), _handler(messages.HEALTH, {"Check": self._check_health})]

    async def _server_live(self, request: Any, context: Any) -> Any:
        return messages.message("inference.ServerLiveResponse")(live=True)

    async def _server_ready(self, request: Any, context: Any) -> Any:
        return messages.message("inference.ServerReadyResponse")(ready=self.ready)

    async def _model_ready(self, request: Any, context: Any) -> Any:
        self._model.check_name(request.name, request.version)
        return messages.message("inference.ModelReadyResponse")(ready=self.ready)

    async def _server_metadata(self, request: Any, context: Any) -> Any:
        response = messages.message("inference.ServerMetadataResponse")
        return response(name=SERVER_NAME, version=SERVER_VERSION)

    async def _model_metadata(self, request: Any, context: Any) -> Any:
        self._model.check_name(request.name, request.version)
        response = messages.message("inference.ModelMetadataResponse")(
            name=self._model.name, versions=[self._model.version], platform="python"
        )
        container = self._model.container
        for field, specs in ((response.inputs, container.inputs), (response.outputs, container.outputs)):
            for spec in specs:
                field.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return response

    async def _model_infer(self, request: Any, context: Any) -> Any:
        self.in_flight += 1
        try:
            call = Call(self._model, request)
            deadline = _deadline(request, context)
            if self.starting:
                raise Refusal(grpc.StatusCode.UNAVAILABLE, self.starting)
            return await self._worker.run(call.run, deadline, request.ByteSize())
        finally:
            self.in_flight -= 1

    async def _check_health(self, request: Any, context: Any) -> Any:
        if request.service not in ("", messages.INFERENCE, self._model.name):
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r}")
        status = "SERVING" if self.ready else "NOT_SERVING"
        return messages.message("grpc.health.v1.HealthCheckResponse")(status=status)


def _handler(service: str, functions: Mapping[str, _Handler]) -> grpc.GenericRpcHandler:
    rpcs = messages.methods(service)
    return grpc.method_handlers_generic_handler(
        service,
        {
            name: grpc.unary_unary_rpc_method_handler(
                _answering(function, rpcs[name].request),
                response_serializer=rpcs[name].response.SerializeToString,
            )
            for name, function in functions.items()
        },
    )


def _answering(function: _Handler, kind: Any) -> _Handler:
    """Turns a `Refusal` into its gRPC status.

    The request is parsed here: gRPC would answer UNKNOWN to bytes that are no message.
    """

    async def answer(data: bytes, context: Any) -> Any:
        try:
            try:
                request = kind.FromString(data)
            except DecodeError as error:
                raise invalid(f"the request cannot be read: {error}") from None
            return await function(request, context)
        except Refusal as caught:
            refusal = caught
        except Exception as error:  # a mistake of this package
            log.exception("a call failed in the container's own code")
            refusal = internal(described(error))
        # Outside of the handlers above: `abort` leaves by an exception of its own.
        return await context.abort(refusal.code, refusal.message)

    return answer


def _deadline(request: Any, context: Any) -> float | None:
    """The earlier of the call's gRPC deadline and its `timeout` parameter (µs; 0: none)."""
    limits = []
    remaining = context.time_remaining()
    if remaining is not None:
        limits.append(remaining)
    if "timeout" in request.parameters:
        parameter = request.parameters["timeout"]
        kind = parameter.WhichOneof("parameter_choice")
        timeout = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else -1
        if timeout < 0:
            raise invalid("the parameter timeout must be a whole number of microseconds, 0 or more")
        if timeout:
            limits.append(timeout / 1e6)
    return time.monotonic() + min(limits) if limits else None
