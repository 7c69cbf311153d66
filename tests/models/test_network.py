"""Networks for autograd: taps, early stop, frozen weights."""

from __future__ import annotations

import doctest

import pytest
import torch
from support.repository import add_copy

from convlens.errors import FailedPrecondition, InvalidArgument
from convlens_models import network as module_under_test
from convlens_models.network import load_network
from convlens_models.repository import ModelRepository

IMAGES = torch.rand(2, 3, 48, 40, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network():
    return load_network(ModelRepository().get())


def test_taps_come_in_the_order_asked_for(network):
    names = ["classifier", "features.relu2", "features.conv2", "log_probabilities", "features.relu2"]
    actual = network.taps(IMAGES, names)
    assert list(actual) == list(dict.fromkeys(names))
    torch.testing.assert_close(actual["features.relu2"], actual["features.conv2"].relu())
    torch.testing.assert_close(actual["classifier"], network(IMAGES))
    torch.testing.assert_close(actual["log_probabilities"], network(IMAGES).log_softmax(1))


def test_the_pass_ends_at_the_deepest_layer_asked_for(network):
    ran = []
    handles = [
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, part in network.module.named_modules()
    ]
    network.taps(IMAGES, ["features.relu2"])
    for handle in handles:
        handle.remove()
    assert ran[-1] == "features.relu2"
    assert "features.conv3_1" not in ran


def test_no_hook_stays_whatever_happens(network):
    with pytest.raises(RuntimeError):
        network.taps(torch.rand(1, 5, 40, 40), ["features.relu2"])
    network.taps(IMAGES, ["features.relu2"])
    assert not any(part._forward_hooks for part in network.modules())


def test_unknown_layers_are_refused(network):
    with pytest.raises(InvalidArgument, match="layers = 'nothing'"):
        network.taps(IMAGES, ["features.relu2", "nothing"])


def test_weights_are_frozen_and_the_image_is_not(network):
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    images = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        network.taps(images, ["features.pool3"])["features.pool3"].sum(), images
    )
    assert gradient.abs().sum() > 0


def test_every_layer_of_the_manifest_can_be_tapped(network):
    names = [layer.name for layer in ModelRepository().get().manifest.layers]
    assert list(network.taps(IMAGES, names)) == names


def test_double_precision_and_other_devices(network):
    double = load_network(ModelRepository().get()).double()
    torch.testing.assert_close(double(IMAGES.double()).float(), network(IMAGES), rtol=1e-4, atol=1e-4)
    assert load_network(ModelRepository().get(), "meta")(IMAGES.to("meta")).device.type == "meta"


def test_models_from_onnx_files_are_refused_with_what_works(tmp_path):
    add_copy(tmp_path, "mine", architecture="onnx")
    with pytest.raises(
        FailedPrecondition, match=r"model 'mine' has architecture 'onnx': jobs need one of alexnet"
    ):
        load_network(ModelRepository(tmp_path).get("mine"))


def test_the_example_in_the_docstring():
    assert doctest.testmod(module_under_test, extraglobs={"torch": torch}).failed == 0
