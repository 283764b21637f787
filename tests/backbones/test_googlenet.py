"""GoogLeNet against a reading of bvlc_googlenet's prototxt, layer by layer, and its variant with batch norm."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.patterns import patterned, pictures
from placecell.backbones import MEAN, STD, backbone
from placecell.backbones.googlenet import ResponseNorm, ToPixelValues

MODULES = ("3a", "3b", "pool", "4a", "4b", "4c", "4d", "4e", "pool", "5a", "5b")


def caffe_googlenet(weights: dict[str, Tensor], pixels: Tensor, *, response_norm: bool = True) -> dict[str, Tensor]:
    """The layers of the prototxt in their order, with functions only."""

    def conv(name: str, x: Tensor, **how: int) -> Tensor:
        return F.relu(F.conv2d(x, weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"], **how))

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0) if response_norm else nn.Identity()
    blobs = {"conv1": conv("conv1", pixels, stride=2, padding=3)}
    blobs["conv3"] = conv("conv3", conv("conv2", norm(pool(blobs["conv1"]))), padding=1)
    x = pool(norm(blobs["conv3"]))
    for module in MODULES:
        if module == "pool":
            x = pool(x)
            continue
        at = f"inception{module}"
        ones = conv(f"{at}.branch1", x)
        threes = conv(f"{at}.branch2.1", conv(f"{at}.branch2.0", x), padding=1)
        fives = conv(f"{at}.branch3.1", conv(f"{at}.branch3.0", x), padding=2)
        pooled = conv(f"{at}.branch4.1", F.max_pool2d(x, 3, 1, padding=1))
        x = blobs[at] = torch.cat([ones, threes, fives, pooled], 1)
    return blobs


@torch.no_grad()
@pytest.mark.parametrize("name", ["googlenet", "googlenet_plain"])
def test_is_the_network_of_the_prototxt(name: str) -> None:
    network, normed = patterned(backbone(name)), name == "googlenet"
    images = pictures(2, 97, 75)
    pixels = images * 255 * torch.tensor(STD).view(1, 3, 1, 1) if normed else images
    wanted = caffe_googlenet(network.state_dict(), pixels, response_norm=normed)
    found = network(images)
    assert set(found) <= set(wanted)
    for key, value in found.items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-4, atol=1e-4 * float(wanted[key].std()))


def test_brings_pictures_back_to_pixel_values_less_the_mean() -> None:
    rgb = torch.tensor([0.0, 128.0, 255.0]).view(1, 3, 1, 1)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    torch.testing.assert_close(ToPixelValues()((rgb / 255 - mean) / std), rgb - 255 * mean)


def test_the_224_pixels_of_the_paper_end_at_7_cells() -> None:
    with torch.no_grad():
        maps = backbone("googlenet")(pictures(1, 224, 224))
    assert [value.shape[-1] for value in maps.values()] == [112, 56, 28, 14, 14, 14, 7]


def test_first_weights_are_those_of_caffe() -> None:
    for module in backbone("googlenet").modules():
        if isinstance(module, nn.Conv2d):
            bound = math.sqrt(3 / module.weight[0].numel())
            assert 0.95 * bound < module.weight.abs().max() <= bound
            assert module.bias is not None and (module.bias == torch.tensor(0.2)).all()


class TestResponseNorm:
    @pytest.mark.parametrize("channels", [2, 5, 64])
    def test_is_torchs_to_rounding_with_its_gradient(self, channels: int) -> None:
        wanted_norm, norm = nn.LocalResponseNorm(5, 1e-4, 0.75), ResponseNorm(channels)
        values = 300 * pictures(channels, 7, 11).view(1, channels, 7, 33)
        found_in, wanted_in = values.clone().requires_grad_(), values.clone().requires_grad_()
        found, wanted = norm(found_in), wanted_norm(wanted_in)
        torch.testing.assert_close(found, wanted)
        found.square().sum().backward()
        wanted.square().sum().backward()
        torch.testing.assert_close(found_in.grad, wanted_in.grad, rtol=1e-4, atol=1e-2)

    def test_computes_in_float32_and_answers_in_the_type_it_was_given(self) -> None:
        values = (200 * pictures(8, 5, 9).view(1, 8, 9, 15)).bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            found = ResponseNorm(8)(values)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, nn.LocalResponseNorm(5, 1e-4, 0.75)(values.float()).bfloat16())
        assert torch.equal(found, ResponseNorm(8).bfloat16()(values))

    def test_has_nothing_to_learn_or_to_save(self) -> None:
        assert ResponseNorm(8).state_dict() == {}


class TestBatchNorm:
    def test_every_convolution_has_one_and_no_bias(self) -> None:
        network = backbone("bn_inception")
        convs = [key for key, module in network.named_modules() if isinstance(module, nn.Conv2d)]
        norms = [key for key, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
        assert [key.removesuffix("conv") + "bn" for key in convs] == norms
        assert not any(key.endswith("conv.bias") for key in network.state_dict())

    def test_two_3x3_stand_for_every_5x5_and_nothing_else_changes(self) -> None:
        plain, split = (backbone(name) for name in ("googlenet", "bn_inception"))
        assert plain.taps == split.taps
        assert not any(isinstance(module, ResponseNorm | ToPixelValues) for module in split.modules())
        shapes, split_shapes = (
            {k: tuple(v.shape) for k, v in net.state_dict().items() if k.endswith("conv.weight")}
            for net in (plain, split)
        )
        for key, shape in shapes.items():
            if shape[-1] != 5:
                assert split_shapes.pop(key) == shape
                continue
            leaving, entering = shape[:2]
            assert split_shapes.pop(key) == (leaving, entering, 3, 3)
            assert split_shapes.pop(key.replace("branch3.1", "branch3.2")) == (leaving, leaving, 3, 3)
        assert split_shapes == {}

    def test_two_3x3_reach_as_far_as_a_5x5_at_18_25ths_of_the_cost(self) -> None:
        network = backbone("bn_inception").eval()
        branch = network.get_submodule("inception3a.branch3")
        features = torch.rand(1, 192, 9, 9, requires_grad=True)
        branch(features)[0, :, 4, 4].sum().backward()
        assert features.grad is not None
        touched = features.grad.abs().sum((0, 1)) > 0
        wanted = torch.zeros(9, 9, dtype=torch.bool)
        wanted[2:7, 2:7] = True
        assert torch.equal(touched, wanted)
