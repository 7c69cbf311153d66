"""ListModels, GetModel, GetFilters through a real server."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from support.replies import error_of, tensors_of
from support.repository import add_copy
from support.server_thread import serving

from convlens.errors import DataLoss
from convlens.v1 import model_pb2, model_pb2_grpc
from convlens_models.manifest import Manifest
from convlens_models.repository import WEIGHTS, ModelRepository


@pytest.fixture
def stub(channel):
    return model_pb2_grpc.ModelServiceStub(channel)


def test_list_gives_the_newest_versions_by_name_without_layers(stub, manifest: Manifest):
    models = stub.ListModels(model_pb2.ListModelsRequest()).models
    assert [(model.name, model.version) for model in models] == [("copy", 2), ("patterns", manifest.version)]
    assert not any(model.layers for model in models)


@pytest.mark.parametrize("page_size", [1, 2, 3, 50])
def test_pages_put_together_are_the_whole_list(stub, manifest: Manifest, page_size):
    found, token = [], ""
    while True:
        request = model_pb2.ListModelsRequest(page_size=page_size, page_token=token, all_versions=True)
        page = stub.ListModels(request)
        assert len(page.models) <= page_size
        found += [(model.name, model.version) for model in page.models]
        if not (token := page.next_page_token):
            break
    assert found == [("copy", 2), ("copy", 1), ("patterns", manifest.version)]


def test_identifiers_of_classes_are_told(tmp_path):
    known = ["n00000001", *[""] * (len(ModelRepository().get().manifest.labels) - 1)]
    add_copy(tmp_path, "named", class_ids=known)
    with serving(models=tmp_path) as app, grpc.insecure_channel(app.address) as channel:
        request = model_pb2.GetModelRequest(model={"name": "named"})
        assert list(model_pb2_grpc.ModelServiceStub(channel).GetModel(request).model.class_ids) == known


def test_model_has_all_that_the_manifest_says(stub, manifest: Manifest):
    model = stub.GetModel(model_pb2.GetModelRequest()).model
    assert (model.name, model.version, model.digest) == ("patterns", manifest.version, manifest.digest)
    assert list(model.labels) == list(manifest.labels)
    assert (model.input_size, model.dynamic_size, model.engine) == (96, True, "onnx")
    assert (model.parameters, model.multiply_adds) == (manifest.parameters, manifest.multiply_adds)
    layers = {layer.name: layer for layer in model.layers}
    first = layers["features.conv1"]
    assert (list(first.shape), first.stride, first.receptive_field) == ([40, 48, 48], 2, 7)
    assert first.has_weights
    assert not layers["log_probabilities"].has_weights
    assert list(layers) == [layer.name for layer in manifest.layers]


@pytest.mark.parametrize("layer", ["", "features.conv1", "features.conv3_2", "classifier"])
def test_filters_are_the_stored_weights(stub, layer):
    _, tensors = tensors_of(stub.GetFilters(model_pb2.GetFiltersRequest(layer=layer)))
    stored = ModelRepository().get()
    name = layer or "features.conv1"
    weight = stored.manifest.layer(name).weight
    assert weight is not None
    assert list(tensors) == [name]
    assert np.array_equal(tensors[name], stored.weights()[weight])


def test_model_that_is_added_while_serving_is_listed_and_a_damaged_one_is_data_loss(tmp_path):
    with serving(models=tmp_path) as app, grpc.insecure_channel(app.address) as channel:
        stub = model_pb2_grpc.ModelServiceStub(channel)
        assert [model.name for model in stub.ListModels(model_pb2.ListModelsRequest()).models] == ["patterns"]
        add_copy(tmp_path, "late")
        models = stub.ListModels(model_pb2.ListModelsRequest()).models
        assert [model.name for model in models] == ["late", "patterns"]
        with (tmp_path / "late" / "1" / WEIGHTS).open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"!")
        error = error_of(stub.GetFilters, model_pb2.GetFiltersRequest(model={"name": "late"}))
        assert isinstance(error, DataLoss)
        assert WEIGHTS in error.message
