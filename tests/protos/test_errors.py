"""Every error arrives in the client as the class that the server raised, with its details."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status

from convlens import errors


class RpcFailure(grpc.RpcError):
    """What a gRPC call raises, as far as errors.py looks at it."""

    def __init__(self, code, details, metadata=()):
        self._answers = code, details, metadata

    def code(self):
        return self._answers[0]

    def details(self):
        return self._answers[1]

    def trailing_metadata(self):
        return self._answers[2]


def over_the_wire(error, details=None):
    status = status_pb2.Status.FromString(errors.to_status(error).SerializeToString())
    code = next(code for code in grpc.StatusCode if code.value[0] == error.code)
    metadata = (("grpc-status-details-bin", status.SerializeToString()),)
    return errors.from_rpc_error(RpcFailure(code, details or error.message, metadata))


@pytest.mark.parametrize("kind", errors.BY_CODE.values(), ids=lambda kind: kind.__name__)
def test_the_class_and_its_details_survive(kind):
    sent = kind("no", field="a.b", reason="SPECIAL", retry_after=1.5)
    received = over_the_wire(sent)
    assert type(received) is kind
    assert vars(received) == vars(sent)
    assert str(received) == "no"


def test_each_class_has_its_own_code_and_every_failure_code_has_a_class():
    codes = set(code_pb2.Code.values()) - {code_pb2.OK, code_pb2.UNKNOWN, code_pb2.ABORTED}
    assert set(errors.BY_CODE) == codes


def test_an_error_without_details_keeps_code_and_text():
    received = errors.from_rpc_error(RpcFailure(grpc.StatusCode.UNAVAILABLE, "connection refused", None))
    assert type(received) is errors.Unavailable
    assert str(received) == "connection refused"
    assert received.retry_after is None


def test_details_that_contradict_the_status_are_ignored():
    received = over_the_wire(errors.NotFound("no such model"), details="replaced by a proxy")
    assert type(received) is errors.NotFound
    assert str(received) == "replaced by a proxy"


def test_details_that_are_no_message_are_ignored():
    failure = RpcFailure(grpc.StatusCode.INTERNAL, "oh", (("grpc-status-details-bin", b"\xff\xff"),))
    assert type(errors.from_rpc_error(failure)) is errors.Internal


def test_a_code_without_a_class_is_the_base_error():
    assert type(errors.from_status(status_pb2.Status(code=code_pb2.ABORTED))) is errors.ConvLensError


def test_a_bad_value_is_named_and_shortened():
    error = errors.InvalidArgument.of("top_k", "9" * 500, "between 1 and 1000")
    assert str(error).startswith("top_k = '999")
    assert str(error).endswith("99': must be between 1 and 1000")
    assert len(str(error)) < 130
    assert error.field == "top_k"


def test_an_offset_out_of_range_is_also_a_bad_argument():
    assert issubclass(errors.OutOfRange, errors.InvalidArgument)


@pytest.mark.parametrize("letter", ["x", "%", "🌱"])
def test_a_long_message_fits_into_the_trailers(letter):
    class Rude(grpc.GenericRpcHandler):
        def service(self, details):
            def fail(request, context):
                error = errors.InvalidArgument(letter * 20_000, field="a.b")
                context.abort_with_status(rpc_status.to_status(errors.to_status(error)))

            return grpc.unary_unary_rpc_method_handler(fail)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Rude()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/any/Method")(b"")
    server.stop(0).wait()
    received = errors.from_rpc_error(caught.value)
    assert type(received) is errors.InvalidArgument
    assert str(received).startswith(letter * 200)
    assert str(received).endswith("...")
