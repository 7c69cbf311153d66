"""Adding images through a connection that breaks: nothing is lost, nothing acknowledged is sent again."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_status import rpc_status

from convlens.errors import NotFound, Unavailable, to_status
from convlens.v1 import collection_pb2 as pb
from convlens.v1 import collection_pb2_grpc
from convlens_client import AsyncClient, Client
from convlens_client.requests import add_images

COUNT = 20


class FakeCollections(collection_pb2_grpc.CollectionServiceServicer):
    """Takes images; the streams end after as many answers as `breaks` says, the last goes on to its end."""

    def __init__(self, breaks):
        self.breaks = list(breaks)
        self.streams = []

    def AddImages(self, request_iterator, context):  # noqa: N802
        names = []
        self.streams.append(names)
        left = self.breaks.pop(0) if self.breaks else None
        assert next(request_iterator).collection == "photos"
        for request in request_iterator:
            if left is not None and len(names) == left:
                context.abort_with_status(rpc_status.to_status(to_status(Unavailable("the server goes"))))
            names.append(request.image.name)
            digest = hashlib.sha256(request.image.encoded).hexdigest()
            yield pb.AddImagesResponse(image=pb.CollectionImage(name=request.image.name, digest=digest))


@pytest.fixture(params=[[], [0], [3], [7, 0, 5]], ids=str)
def service(request):
    service = FakeCollections(request.param)
    server = grpc.server(ThreadPoolExecutor(4))
    collection_pb2_grpc.add_CollectionServiceServicer_to_server(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield service
    server.stop(None).wait()


def images():
    return [(f"{n}.png", bytes([n]) * 50_000) for n in range(COUNT)]


def check(service, added, breaks):
    assert [answer.image.name for answer in added] == [name for name, _ in images()]
    assert [answer.image.digest for answer in added] == [hashlib.sha256(f).hexdigest() for _, f in images()]
    assert len(service.streams) == breaks + 1
    # An answer that the client has seen is never asked for again; one that was lost on the way may be.
    assert sum(map(len, service.streams)) <= COUNT + breaks * COUNT
    assert service.streams[-1][-1] == f"{COUNT - 1}.png"


def test_it_goes_on_behind_the_last_answer(service):
    breaks = len(service.breaks)
    with Client(service.address) as client:
        check(service, client.add_images("photos", images()), breaks)


async def test_so_does_the_async_client(service):
    breaks = len(service.breaks)
    async with AsyncClient(service.address) as client:
        check(service, await client.add_images("photos", images()), breaks)


def test_each_answer_is_shown_as_it_comes(service):
    with Client(service.address) as client:
        shown = [answer.image.name for answer in client.follow(add_images("photos", images()))]
    assert shown == [name for name, _ in images()]


def test_a_file_that_cannot_be_read_is_the_callers_error(service, tmp_path):
    with Client(service.address) as client:
        with pytest.raises(NotFound, match=r"absent\.png"):
            client.add_images("photos", [tmp_path / "absent.png"])
        with pytest.raises(NotFound, match="no folder"):
            client.add_images("photos", tmp_path / "absent")


def test_a_folder_is_added_with_all_below_it(service, tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "sub/a.jpg", "note.txt"):
        (tmp_path / name).write_bytes(name.encode())
    with Client(service.address) as client:
        added = client.add_images("photos", tmp_path)
    assert [answer.image.name for answer in added] == ["b.png", "sub/a.jpg"]
