"""What a collection keeps, names, counts and forgets."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from support.collection_service import COUNT, LAYER, PHOTOS, features
from support.collections import picture
from support.replies import error_of

from convlens import errors
from convlens.v1 import collection_pb2 as pb
from convlens.v1 import inspection_pb2
from convlens_workers.collections import CollectionFiles, CollectionIndex, Features, FeatureSet


def test_a_collection_tells_of_its_images_and_features(place) -> None:
    found = place.collections.GetCollection(pb.GetCollectionRequest(id=PHOTOS)).collection
    assert found.images == COUNT
    assert found.total_bytes == sum(len(picture(n)) for n in range(COUNT))
    assert {(f.layer, f.pooling, f.images) for f in found.features} >= {
        (LAYER, inspection_pb2.POOLING_MEAN, COUNT),
        (LAYER, inspection_pb2.POOLING_MAX, COUNT),
        (LAYER, inspection_pb2.POOLING_FLATTEN, COUNT),
    }
    dimensions = {f.pooling: f.dimension for f in found.features if f.layer == LAYER}
    assert dimensions == {1: 128, 2: 128, 3: 128 * 144}


def test_images_are_kept_once_and_named_apart(place) -> None:
    place.create("names")
    first = place.add("names", {"a.png": picture(1), "b.png": picture(1)})
    assert [(r.image.name, r.duplicate) for r in first] == [("a.png", False), ("a.png", True)]
    again = [place.add("names", {"a.png": picture(n)})[0].image.name for n in (2, 3, 1)]
    assert again == ["a.png (2)", "a.png (3)", "a.png"]
    files = {"junk": b"junk", "strip": strip(), "big": b"x" * 300_001, "empty": b"", "c.png": picture(4)}
    bad = place.add("names", files)
    assert [bool(r.error) for r in bad] == [True, True, True, True, False]
    assert bad[3].image.name == "empty"
    assert "PNG" in bad[0].error
    assert "32 times" in bad[1].error
    assert "300000" in bad[2].error
    names: list[str] = []
    token = ""
    while True:
        page = place.collections.ListImages(pb.ListImagesRequest(id="names", page_size=2, page_token=token))
        names += [image.name for image in page.images]
        if not (token := page.next_page_token):
            break
    assert names == ["a.png", "a.png (2)", "a.png (3)", "c.png"]
    whole = place.collections.GetImage(pb.GetImageRequest(id="names", image="a.png (2)"))
    assert whole.encoded == picture(2)
    assert (whole.image.width, whole.image.height) == (40, 40)


def strip() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (330, 10)).save(buffer, "PNG")
    return buffer.getvalue()


def test_new_images_are_all_that_is_extracted(place) -> None:
    place.create("growing")
    place.add("growing", {f"{n}.png": picture(n) for n in range(20)})
    assert place.extract("growing").total_steps == 20
    place.add("growing", {f"{n}.png": picture(n) for n in range(25)})
    lacking = pb.FindNearestRequest(id="growing", features=features(), name="1.png")
    error = error_of(place.collections.FindNearest, lacking)
    assert isinstance(error, errors.FailedPrecondition)
    assert error.reason == "NO_FEATURES"
    assert "5 of 25 images" in error.message
    assert "extract_features" in error.message
    assert place.extract("growing").total_steps == 5
    assert len(place.collections.FindNearest(lacking).neighbours) == 10
    assert place.extract("growing").total_steps == 0


def test_a_full_collection_refuses_more(place) -> None:
    place.create("full")
    with pytest.raises(grpc.RpcError) as raised:
        place.add("full", {f"{n}.png": picture(n) for n in range(71)})
    error = errors.from_rpc_error(raised.value)
    assert isinstance(error, errors.ResourceExhausted)
    assert error.reason == "COLLECTION_FULL"
    assert place.collections.GetCollection(pb.GetCollectionRequest(id="full")).collection.images == 70


def test_deleted_collections_leave_nothing(place, tmp_path: Path) -> None:
    place.create("gone")
    place.add("gone", {"a.png": picture(1)})
    place.collections.DeleteCollection(pb.DeleteCollectionRequest(id="gone"))
    for method, request in (
        (place.collections.GetCollection, pb.GetCollectionRequest(id="gone")),
        (place.collections.ListImages, pb.ListImagesRequest(id="gone")),
        (place.collections.GetImage, pb.GetImageRequest(id="gone", image="a.png")),
        (place.collections.DeleteCollection, pb.DeleteCollectionRequest(id="gone")),
        (place.collections.FindNearest, pb.FindNearestRequest(id="gone", features=features(), name="a.png")),
    ):
        assert isinstance(error_of(method, request), errors.NotFound), request
    assert place.create("gone").images == 0
    ids = [
        c.id for c in place.collections.ListCollections(pb.ListCollectionsRequest(page_size=1)).collections
    ]
    assert len(ids) == 1


def test_a_collection_that_is_deleted_while_an_image_is_looked_up(
    place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.create("going")
    place.add("going", {"a.png": picture(1)})
    images = CollectionIndex.images

    async def gone_before(self: CollectionIndex, id_: str, digests: list[str]) -> Any:
        await self.delete(id_)
        return await images(self, id_, digests)

    monkeypatch.setattr(CollectionIndex, "images", gone_before)
    request = pb.GetImageRequest(id="going", image="a.png")
    assert isinstance(error_of(place.collections.GetImage, request), errors.NotFound)


def stored(folder: Path, id_: str) -> list[Path]:
    return [path for path in (folder / "collections" / id_).rglob("*") if path.is_file()]


def test_a_store_that_cannot_delete_loses_no_track_of_what_is_left(
    place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.create("stuck")
    place.add("stuck", {"a.png": picture(1)})
    drop = CollectionFiles.drop

    def read_only(self: CollectionFiles, collection: str) -> None:
        raise errors.Unavailable("the artifact store failed: Read-only file system", retry_after=5.0)

    monkeypatch.setattr(CollectionFiles, "drop", read_only)
    deletion = pb.DeleteCollectionRequest(id="stuck")
    assert isinstance(error_of(place.collections.DeleteCollection, deletion), errors.Unavailable)
    found = pb.GetCollectionRequest(id="stuck")
    assert isinstance(error_of(place.collections.GetCollection, found), errors.NotFound)
    creation = pb.CreateCollectionRequest(id="stuck")
    assert isinstance(error_of(place.collections.CreateCollection, creation), errors.AlreadyExists)
    monkeypatch.setattr(CollectionFiles, "drop", drop)
    place.collections.DeleteCollection(deletion)
    assert stored(place.artifacts, "stuck") == []
    assert place.create("stuck").images == 0


def test_an_image_that_comes_while_its_collection_goes_leaves_no_file(
    place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.create("late")
    put_image = CollectionFiles.put_image

    def gone_before(self: CollectionFiles, collection: str, data: bytes) -> str:
        place.collections.DeleteCollection(pb.DeleteCollectionRequest(id="late"))
        return put_image(self, collection, data)

    monkeypatch.setattr(CollectionFiles, "put_image", gone_before)
    with pytest.raises(grpc.RpcError) as raised:
        place.add("late", {"a.png": picture(1)})
    assert isinstance(errors.from_rpc_error(raised.value), errors.NotFound)
    assert stored(place.artifacts, "late") == []


def test_features_that_have_changed_in_the_store_are_not_compared(tmp_path: Path) -> None:
    files, which = CollectionFiles(tmp_path.as_uri()), FeatureSet("m", "layer", 1)
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    whole = Features(values, np.zeros((0, 0), np.int32), 1)
    files.put_features("photos", which, "shard", whole)
    np.testing.assert_array_equal(files.features("photos", which, "shard").values, values)
    (path,) = stored(tmp_path, "photos")
    path.write_bytes(path.read_bytes().replace(np.float32(4).tobytes(), np.float32(np.nan).tobytes()))
    with pytest.raises(errors.DataLoss, match="are damaged"):
        files.features("photos", which, "shard")


def test_features_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    files, which = CollectionFiles(tmp_path.as_uri()), FeatureSet("m", "layer", 1)
    values = np.full((2, 3), np.nan, np.float32)
    with pytest.raises(errors.FailedPrecondition, match="layer: its values are not finite"):
        files.put_features("photos", which, "shard", Features(values, np.zeros((0, 0), np.int32), 1))
    assert stored(tmp_path, "photos") == []
