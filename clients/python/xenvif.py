"""A client of xenvifd for Python, of nothing but grpcio and protobuf (Debian: python3-grpcio).

The messages come from the descriptors that the project ships in proto/xenvif.binpb; nothing is
generated. A service's methods are called by their names, with the fields of the request:

    with Client() as client:
        vif = client.VifService.CreateVif(domid=3, labels={"role": "web"}).vif
        for event in client.VifService.WatchVifs(domid=3):
            print(event.WhichOneof("event"), event.resume_token)

Everything that the daemon refuses is an `XenvifError` with a stable reason.
"""

import os
import pathlib
import tempfile

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "xenvif.v1"
TCP_ADDRESS = "127.0.0.1:7637"
DESCRIPTORS = pathlib.Path(__file__).resolve().parents[2] / "proto" / "xenvif.binpb"
# For calls of one answer; those that wait for a guest may take 10 s of the daemon's own.
TIMEOUT_SECONDS = 25


class XenvifError(Exception):
    """What the daemon refused: `reason` is a stable word, `code` the gRPC status."""

    def __init__(self, code, reason, message, fields):
        super().__init__(f"{message} ({reason})")
        self.code = code
        self.reason = reason
        self.fields = fields


class Client:
    """A connection to one daemon. Services are attributes: `client.VifService`."""

    def __init__(self, address=None, descriptors=DESCRIPTORS):
        self._pool = descriptor_pool.DescriptorPool()
        _add_files(self._pool, pathlib.Path(descriptors).read_bytes())
        _add_error_details(self._pool)
        self._channel = grpc.insecure_channel(address or default_address())

    def __getattr__(self, name):
        try:
            descriptor = self._pool.FindServiceByName(f"{PACKAGE}.{name}")
        except KeyError:
            raise AttributeError(name) from None
        service = _Service(self, self._channel, descriptor)
        setattr(self, name, service)
        return service

    def message(self, name, /, **fields):
        """A message of the API by its name: `client.message("VifSpec", mtu=9000)`."""
        return self.type_of(f"{PACKAGE}.{name}")(**fields)

    def type_of(self, full_name):
        descriptor = self._pool.FindMessageTypeByName(full_name)
        if hasattr(message_factory, "GetMessageClass"):
            return message_factory.GetMessageClass(descriptor)
        return message_factory.MessageFactory(self._pool).GetPrototype(descriptor)

    def close(self):
        self._channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class _Service:
    """The methods of a service. One that streams answers returns an iterator with `cancel`."""

    def __init__(self, client, channel, descriptor):
        for method in descriptor.methods:
            setattr(self, method.name, _method(client, channel, descriptor, method))


def _method(client, channel, service, method):
    request_type = client.type_of(method.input_type.full_name)
    response_type = client.type_of(method.output_type.full_name)
    described = descriptor_pb2.MethodDescriptorProto()
    method.CopyToProto(described)
    streams = (described.client_streaming, described.server_streaming)
    sides = ["stream" if streaming else "unary" for streaming in streams]
    call = getattr(channel, "_".join(sides))(
        f"/{service.full_name}/{method.name}",
        request_serializer=request_type.SerializeToString,
        response_deserializer=response_type.FromString,
    )
    if described.client_streaming:
        # The requests are the caller's own iterator.
        return lambda requests, timeout=None: _Answers(client, call(requests, timeout=timeout))
    if described.server_streaming:
        return lambda timeout=None, **fields: _Answers(
            client, call(request_type(**fields), timeout=timeout)
        )

    def unary(timeout=TIMEOUT_SECONDS, **fields):
        try:
            return call(request_type(**fields), timeout=timeout)
        except grpc.RpcError as error:
            raise _refusal(client, error) from None

    return unary


class _Answers:
    """The answers of a stream, as they come."""

    def __init__(self, client, call):
        self._client = client
        self._call = call

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self._call)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.CANCELLED:
                raise StopIteration from None
            raise _refusal(self._client, error) from None

    def cancel(self):
        self._call.cancel()


def _refusal(client, error):
    """The error with what the daemon says of it in google.rpc details."""
    reason, fields = error.code().name, []
    status_type = client.type_of("google.rpc.Status")
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_type.FromString(value).details:
            name = detail.type_url.rsplit("/", 1)[-1]
            if name == "google.rpc.ErrorInfo":
                reason = client.type_of(name).FromString(detail.value).reason
            elif name == "google.rpc.BadRequest":
                violations = client.type_of(name).FromString(detail.value).field_violations
                fields = [violation.field for violation in violations]
    return XenvifError(error.code(), reason, error.details(), fields)


def default_address():
    """XENVIF_ADDRESS, else the daemon's Unix socket, else loopback: as the command has it."""
    address = os.environ.get("XENVIF_ADDRESS")
    if address:
        return f"unix:{address}" if address.startswith("/") else address
    own = os.environ.get("XDG_RUNTIME_DIR")
    sockets = [
        "/run/xenvif/xenvifd.sock",
        *([f"{own}/xenvif/xenvifd.sock"] if own else []),
        f"{tempfile.gettempdir()}/xenvif-{os.getuid()}/xenvifd.sock",
    ]
    found = next((path for path in sockets if os.path.exists(path)), None)
    return f"unix:{found}" if found else TCP_ADDRESS


def _add_files(pool, encoded):
    """Adds a FileDescriptorSet, each file behind those that it imports."""
    files = {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(encoded).file}
    added = set()

    def add(name):
        if name in added:
            return
        added.add(name)
        for dependency in files[name].dependency:
            add(dependency)
        pool.Add(files[name])

    for name in files:
        add(name)


def _add_error_details(pool):
    """What is read here of google/rpc/status.proto and error_details.proto, which Debian has not."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="xenvif_error_details.proto", package="google.rpc", syntax="proto3"
    )

    def message(name, *fields):
        entry = file.message_type.add(name=name)
        for field_name, number, kind, label, of in fields:
            entry.field.add(name=field_name, number=number, type=kind, label=label, type_name=of)

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    message(
        "Detail",
        ("type_url", 1, field.TYPE_STRING, one, None),
        ("value", 2, field.TYPE_BYTES, one, None),
    )
    message("Status", ("details", 3, field.TYPE_MESSAGE, many, ".google.rpc.Detail"))
    message("ErrorInfo", ("reason", 1, field.TYPE_STRING, one, None))
    message("FieldViolation", ("field", 1, field.TYPE_STRING, one, None))
    message(
        "BadRequest", ("field_violations", 1, field.TYPE_MESSAGE, many, ".google.rpc.FieldViolation")
    )
    pool.Add(file)
