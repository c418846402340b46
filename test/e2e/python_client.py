"""Lists vifs and reads a batch of frames, knowing nothing but what server reflection tells.

Usage: python_client.py ADDRESS

Debian's python3-grpcio and python3-protobuf are all it needs. The messages of the reflection
protocol itself are described here by hand; every other type comes from the server.
"""

import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
FIELD = descriptor_pb2.FieldDescriptorProto


def reflection_messages(pool):
    """The part of grpc/reflection/v1/reflection.proto that this client uses."""
    file = descriptor_pb2.FileDescriptorProto(
        name="reflection_subset.proto", package="grpc.reflection.v1", syntax="proto3"
    )

    def message(name, *fields):
        entry = file.message_type.add(name=name)
        for field, number, kind, label, of in fields:
            entry.field.add(name=field, number=number, type=kind, label=label, type_name=of)

    one, many = FIELD.LABEL_OPTIONAL, FIELD.LABEL_REPEATED
    message(
        "Request",
        ("file_containing_symbol", 4, FIELD.TYPE_STRING, one, None),
        ("list_services", 7, FIELD.TYPE_STRING, one, None),
    )
    message("Files", ("file_descriptor_proto", 1, FIELD.TYPE_BYTES, many, None))
    message("Service", ("name", 1, FIELD.TYPE_STRING, one, None))
    message("Services", ("service", 1, FIELD.TYPE_MESSAGE, many, ".grpc.reflection.v1.Service"))
    message(
        "Response",
        ("files", 4, FIELD.TYPE_MESSAGE, one, ".grpc.reflection.v1.Files"),
        ("services", 6, FIELD.TYPE_MESSAGE, one, ".grpc.reflection.v1.Services"),
    )
    pool.Add(file)
    return [type_of(pool, f"grpc.reflection.v1.{name}") for name in ("Request", "Response")]


def type_of(pool, name):
    descriptor = pool.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)


def add_files(pool, encoded):
    """Adds files to the pool, each behind those that it imports."""
    files = {}
    for data in encoded:
        file = descriptor_pb2.FileDescriptorProto.FromString(data)
        files[file.name] = file
    added = set()

    def add(name):
        if name in added or name not in files:
            return
        added.add(name)
        for dependency in files[name].dependency:
            add(dependency)
        pool.Add(files[name])

    for name in list(files):
        add(name)


def main():
    pool = descriptor_pool.DescriptorPool()
    request_type, response_type = reflection_messages(descriptor_pool.DescriptorPool())
    with grpc.insecure_channel(sys.argv[1]) as channel:
        reflect = channel.stream_stream(
            REFLECTION, request_type.SerializeToString, response_type.FromString
        )

        def ask(**question):
            return next(iter(reflect(iter([request_type(**question)]), timeout=10)))

        services = ask(list_services="*").services.service
        encoded = []
        for service in services:
            print("service", service.name)
            encoded += ask(file_containing_symbol=service.name).files.file_descriptor_proto
        add_files(pool, encoded)

        def method(path, kind, request, response):
            return getattr(channel, kind)(
                path,
                type_of(pool, request).SerializeToString,
                type_of(pool, response).FromString,
            )

        package = "xenvif.v1."
        list_vifs = method(
            "/xenvif.v1.VifService/ListVifs",
            "unary_unary",
            package + "ListVifsRequest",
            package + "ListVifsResponse",
        )
        vifs = list_vifs(type_of(pool, package + "ListVifsRequest")(), timeout=10).vifs
        for vif in vifs:
            print("vif", vif.name, vif.spec.mac, vif.status.reason)

        stream = method(
            "/xenvif.v1.FrameService/StreamFrames",
            "stream_stream",
            package + "StreamFramesRequest",
            package + "StreamFramesResponse",
        )
        request = type_of(pool, package + "StreamFramesRequest")()
        request.open.mode = 1
        request.open.vifs.extend(vif.name for vif in vifs)
        for response in stream(iter([request]), timeout=20):
            kind = response.WhichOneof("message")
            print("message", kind)
            if kind == "frames":
                batch = response.frames
                print("frames", len(batch.frames), "first", batch.first_sequence)
                print("bytes", batch.frames[0].hex())
                break


main()
