"""GoogLeNet (Szegedy et al. 2015) as PoseNet used it, and with batch norm and split 5x5 convolutions."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from placecell.backbones.contract import STD, Backbone, Tap


class _Widths(NamedTuple):
    """Channels in and around an inception module, as table 1 of the paper prints them."""

    entering: int
    one: int
    three_reduced: int
    three: int
    five_reduced: int
    five: int
    pooled: int


_MODULES = {
    "inception3a": _Widths(192, 64, 96, 128, 16, 32, 32),
    "inception3b": _Widths(256, 128, 128, 192, 32, 96, 64),
    "inception4a": _Widths(480, 192, 96, 208, 16, 48, 64),
    "inception4b": _Widths(512, 160, 112, 224, 24, 64, 64),
    "inception4c": _Widths(512, 128, 128, 256, 24, 64, 64),
    "inception4d": _Widths(512, 112, 144, 288, 32, 64, 64),
    "inception4e": _Widths(528, 256, 160, 320, 32, 128, 128),
    "inception5a": _Widths(832, 256, 160, 320, 32, 128, 128),
    "inception5b": _Widths(832, 384, 192, 384, 48, 128, 128),
}
_AFTER_CONV3 = ("maxpool2", "inception3a", "inception3b", "maxpool3", "inception4a", "inception4b", "inception4c")
_AFTER_4C = ("inception4d", "inception4e", "maxpool4", "inception5a", "inception5b")


class GoogLeNet(Backbone):
    """The network of BVLC's `bvlc_googlenet`, 5,973,552 parameters: biases, no batch norm, pools rounding up.

    Where it differs from torchvision's GoogLeNet, whose module names it has: no batch norm, local response
    normalisation after the first pool and after conv3, true 5x5 convolutions, a 3x3 last pool. As Caffe fed it pixel
    values less their mean, it brings its input back to that range first, so that what the normalisation, the first
    biases (0.2) and the heads of PoseNet meet is what they were made for; BVLC's weights fit with the channels of the
    first convolution swapped to RGB.

    Without `response_norm` that normalisation is left out, which runs in no eight bits and costs more than all
    convolutions together there; the input then stays normalised.

    With `batch_norm` it is the network of "Parameter estimation via deep learning for camera localization" (2019),
    called Inception-v2 there: every 5x5 is two 3x3, batch norm follows every convolution, the input stays normalised
    and nothing else normalises. It is not the larger BN-Inception of Ioffe and Szegedy.
    """

    def __init__(self, *, batch_norm: bool = False, response_norm: bool = True) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64, 7, batch_norm, stride=2)
        self.conv2 = _conv(64, 64, 1, batch_norm)
        self.conv3 = _conv(64, 192, 3, batch_norm)
        for name, widths in _MODULES.items():
            self.add_module(name, Inception(widths, batch_norm))
        for index in (1, 2, 3, 4):
            self.add_module(f"maxpool{index}", nn.MaxPool2d(3, stride=2, ceil_mode=True))
        if batch_norm or not response_norm:
            self.stages = ("conv1", "maxpool1", "conv2", "conv3", *_AFTER_CONV3, *_AFTER_4C)
        else:
            self.to_pixel_values = ToPixelValues()
            self.norm1, self.norm2 = ResponseNorm(64), ResponseNorm(192)
            self.stages = ("to_pixel_values", "conv1", "maxpool1", "norm1", "conv2", "conv3", "norm2")
            self.stages += (*_AFTER_CONV3, *_AFTER_4C)
        self.taps = {
            "conv1": Tap(64, 2),
            "conv3": Tap(192, 4),
            "inception3b": Tap(480, 8),
            "inception4a": Tap(512, 16),
            "inception4d": Tap(528, 16),
            "inception4e": Tap(832, 16),
            "inception5b": Tap(1024, 32),
        }


class Inception(nn.Module):
    """Four branches over the same input, joined along the channels."""

    def __init__(self, widths: _Widths, batch_norm: bool) -> None:
        super().__init__()
        w = widths
        self.branch1 = _conv(w.entering, w.one, 1, batch_norm)
        self.branch2 = nn.Sequential(
            _conv(w.entering, w.three_reduced, 1, batch_norm), _conv(w.three_reduced, w.three, 3, batch_norm)
        )
        fives = (
            (_conv(w.five_reduced, w.five, 3, True), _conv(w.five, w.five, 3, True))
            if batch_norm
            else (_conv(w.five_reduced, w.five, 5, False),)
        )
        self.branch3 = nn.Sequential(_conv(w.entering, w.five_reduced, 1, batch_norm), *fives)
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), _conv(w.entering, w.pooled, 1, batch_norm))

    def forward(self, features: Tensor) -> Tensor:
        """(B, entering, h, w) to (B, one + three + five + pooled, h, w)."""
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return torch.cat([branch(features) for branch in branches], dim=1)


class ToPixelValues(nn.Module):
    """Undoes the division by STD and by 255: pixel values less the ImageNet mean, RGB."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", 255 * torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised, to the range of about -124 to 152."""
        return images * self.scale


class ResponseNorm(nn.Module):
    """Local response normalisation (AlexNet, section 3.3): x / (1 + 1e-4 / 5 Σ x²)^0.75, the sum over 5 channels.

    `nn.LocalResponseNorm(5, 1e-4, 0.75)` in float32 whatever comes in, as bfloat16 squares too coarsely. The sum is a
    1x1 convolution with a band of ones, faster than torch's pooling and with a deterministic gradient everywhere.
    """

    band: Tensor
    size, alpha, beta = 5, 1e-4, 0.75

    def __init__(self, channels: int) -> None:
        super().__init__()
        index = torch.arange(channels)
        near = (index[:, None] - index).abs() <= self.size // 2
        self.register_buffer("band", near.float().view(channels, channels, 1, 1), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, h, w), same shape and type."""
        with torch.autocast(features.device.type, enabled=False):
            values = features.float()
            total = F.conv2d(values.square(), self.band.float() * (self.alpha / self.size))
            return (values * (1 + total).pow(-self.beta)).to(features.dtype)


def _conv(entering: int, leaving: int, kernel: int, batch_norm: bool, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm if asked for, ReLU; weights by Caffe's "xavier": uniform with variance 1 / fan-in."""
    conv = nn.Conv2d(entering, leaving, kernel, stride, padding=kernel // 2, bias=not batch_norm)
    bound = math.sqrt(3 / (entering * kernel * kernel))
    nn.init.uniform_(conv.weight, -bound, bound)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if conv.bias is None:
        layers["bn"] = nn.BatchNorm2d(leaving, eps=0.001)
    else:
        nn.init.constant_(conv.bias, 0.2)
    layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)
