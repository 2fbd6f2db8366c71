"""Message classes and stubs of the services that a container speaks or calls.

They live in a descriptor pool of their own. The default pool takes one `inference` package per
process, and a user's model may import tritonclient or kserve, each of which brings its own copy.

A message from this pool is not an instance of a class from the default pool, `Duration` included:
set fields, or copy through `SerializeToString`.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

REGISTRY = "skysail.v1.Registry"
INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"


class Method(NamedTuple):
    """One rpc: its wire path, and the classes of its messages."""

    path: str
    request: Any
    response: Any
    request_streams: bool
    response_streams: bool


def _health_file() -> descriptor_pb2.FileDescriptorProto:
    """`grpc.health.v1` as far as it is served here: it is not among the repository's files."""
    file = descriptor_pb2.FileDescriptorProto(
        name="grpc/health/v1/health.proto", package="grpc.health.v1", syntax="proto3"
    )
    field = descriptor_pb2.FieldDescriptorProto
    request = file.message_type.add(name="HealthCheckRequest")
    request.field.add(name="service", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    response = file.message_type.add(name="HealthCheckResponse")
    status = response.enum_type.add(name="ServingStatus")
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        status.value.add(name=name, number=number)
    response.field.add(
        name="status",
        number=1,
        type=field.TYPE_ENUM,
        label=field.LABEL_OPTIONAL,
        type_name=".grpc.health.v1.HealthCheckResponse.ServingStatus",
    )
    service = file.service.add(name="Health")
    service.method.add(
        name="Check",
        input_type=".grpc.health.v1.HealthCheckRequest",
        output_type=".grpc.health.v1.HealthCheckResponse",
    )
    return file


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    committed = Path(__file__).with_name("descriptors.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(committed).file:
        pool.AddSerializedFile(file.SerializeToString())
    pool.AddSerializedFile(_health_file().SerializeToString())
    return pool


_POOL = _pool()


def message(name: str) -> Any:
    """The class of a message, for example `message("skysail.v1.RegisterRequest")`."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


def enum(name: str) -> Any:
    """The descriptor of an enum; `.values_by_name` and `.values_by_number` say what is in it."""
    return _POOL.FindEnumTypeByName(name)


def methods(service: str) -> dict[str, Method]:
    """The rpcs of a service by name."""
    return {
        method.name: Method(
            path=f"/{service}/{method.name}",
            request=message_factory.GetMessageClass(method.input_type),
            response=message_factory.GetMessageClass(method.output_type),
            request_streams=method.client_streaming,
            response_streams=method.server_streaming,
        )
        for method in _POOL.FindServiceByName(service).methods
    }


class Stub:
    """The rpcs of a service as attributes, on a channel of `grpc` or of `grpc.aio`."""

    def __init__(self, channel: Any, service: str) -> None:
        for name, method in methods(service).items():
            kind = "stream" if method.request_streams else "unary"
            kind += "_stream" if method.response_streams else "_unary"
            call = getattr(channel, kind)(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
            setattr(self, name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service has no rpc {name}")


def set_duration(field: Any, value: timedelta) -> None:
    """Fills a `google.protobuf.Duration`; a zero one is marked as present, too."""
    field.SetInParent()
    whole = value // timedelta(seconds=1)
    field.seconds = whole
    field.nanos = (value - timedelta(seconds=whole)).microseconds * 1000
