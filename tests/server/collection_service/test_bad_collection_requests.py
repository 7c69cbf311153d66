"""Requests to collections that are refused: the field, the kind of error."""

from __future__ import annotations

import grpc
import pytest
from support.collection_service import LAYER, PHOTOS, features
from support.collections import picture
from support.replies import error_of

from convlens import errors
from convlens.v1 import collection_pb2 as pb
from convlens.v1 import job_pb2


@pytest.mark.parametrize(
    ("method", "request_", "field", "kind"),
    [
        ("CreateCollection", pb.CreateCollectionRequest(id="No Capitals"), "id", errors.InvalidArgument),
        ("CreateCollection", pb.CreateCollectionRequest(), "id", errors.InvalidArgument),
        ("CreateCollection", pb.CreateCollectionRequest(id=PHOTOS), "id", errors.AlreadyExists),
        ("ListImages", pb.ListImagesRequest(id=PHOTOS, page_token="x"), "page_token", errors.InvalidArgument),
        ("ListCollections", pb.ListCollectionsRequest(page_size=0), "page_size", errors.InvalidArgument),
        (
            "FindNearest",
            pb.FindNearestRequest(id=PHOTOS, features=features(layer="nothing"), name="1.png"),
            "features.layer",
            errors.InvalidArgument,
        ),
        (
            "FindNearest",
            pb.FindNearestRequest(id=PHOTOS, features=features()),
            "query",
            errors.InvalidArgument,
        ),
        (
            "FindNearest",
            pb.FindNearestRequest(id=PHOTOS, features=features(), name="1.png", k=1001),
            "k",
            errors.InvalidArgument,
        ),
        (
            "FindNearest",
            pb.FindNearestRequest(id=PHOTOS, features=features(), image={"encoded": b"junk"}),
            "image.encoded",
            errors.InvalidArgument,
        ),
        (
            "FindTopActivations",
            pb.FindTopActivationsRequest(id=PHOTOS, layer=LAYER, channel=128),
            "channel",
            errors.InvalidArgument,
        ),
        (
            "FindTopActivations",
            pb.FindTopActivationsRequest(id=PHOTOS, layer="features.relu1", channel=1),
            "",
            errors.FailedPrecondition,
        ),
        (
            "MapCollection",
            pb.MapCollectionRequest(id=PHOTOS, features=features("flatten")),
            "features",
            errors.InvalidArgument,
        ),
        (
            "MapCollection",
            pb.MapCollectionRequest(id=PHOTOS, features=features(), projection=2, perplexity=30),
            "perplexity",
            errors.InvalidArgument,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_requests(place, method, request_, field, kind) -> None:
    error = error_of(getattr(place.collections, method), request_)
    assert isinstance(error, kind), error
    assert error.field == field


def test_bad_streams_and_jobs(place) -> None:
    image = pb.AddImagesRequest(image=pb.NamedFile(name="a", encoded=picture(1)))
    named = pb.AddImagesRequest(collection=PHOTOS)
    for parts, kind in (
        ([image], errors.InvalidArgument),
        ([named, named], errors.InvalidArgument),
        ([pb.AddImagesRequest(collection="nothing")], errors.NotFound),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            list(place.collections.AddImages(iter(parts)))
        assert isinstance(errors.from_rpc_error(raised.value), kind)
    for fields, kind in (
        ({"collection": "nothing", "layers": [LAYER]}, errors.NotFound),
        ({"collection": PHOTOS}, errors.InvalidArgument),
        ({"collection": PHOTOS, "layers": ["features.relu2"], "poolings": [3]}, errors.InvalidArgument),
    ):
        request = job_pb2.SubmitJobRequest(extract_features=job_pb2.ExtractFeatures(**fields))
        assert isinstance(error_of(place.jobs.SubmitJob, request), kind), fields
