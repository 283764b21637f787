"""MobileNetV3-Large, width 1 (Howard et al. 2019)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from placecell.backbones.contract import Backbone, Tap


class _Block(NamedTuple):
    """A row of table 1 of the paper."""

    kernel: int
    wide: int
    leaving: int
    squeezes: bool
    hard_swish: bool
    stride: int


_BLOCKS = (
    _Block(3, 16, 16, False, False, 1),
    _Block(3, 64, 24, False, False, 2),
    _Block(3, 72, 24, False, False, 1),
    _Block(5, 72, 40, True, False, 2),
    _Block(5, 120, 40, True, False, 1),
    _Block(5, 120, 40, True, False, 1),
    _Block(3, 240, 80, False, True, 2),
    _Block(3, 200, 80, False, True, 1),
    _Block(3, 184, 80, False, True, 1),
    _Block(3, 184, 80, False, True, 1),
    _Block(3, 480, 112, True, True, 1),
    _Block(3, 672, 112, True, True, 1),
    _Block(5, 672, 160, True, True, 2),
    _Block(5, 960, 160, True, True, 1),
    _Block(5, 960, 160, True, True, 1),
)


class MobileNetV3(Backbone):
    """torchvision's mobilenet_v3_large without its classifier: 2,971,952 parameters."""

    stages = tuple(f"features.{index}" for index in range(17))

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 16, 3, nn.Hardswish(inplace=True), stride=2)]
        entering = 16
        for row in _BLOCKS:
            layers.append(SqueezedResidual(entering, row))
            entering = row.leaving
        self.features = nn.Sequential(*layers, _conv(entering, 960, 1, nn.Hardswish(inplace=True)))
        self.taps = {
            "features.1": Tap(16, 2),
            "features.3": Tap(24, 4),
            "features.6": Tap(40, 8),
            "features.12": Tap(112, 16),
            "features.16": Tap(960, 32),
        }
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class SqueezedResidual(nn.Module):
    """MobileNetV2's block with, here and there, channels weighed by what the whole picture holds."""

    def __init__(self, entering: int, row: _Block) -> None:
        super().__init__()
        activation: type[nn.Hardswish | nn.ReLU] = nn.Hardswish if row.hard_swish else nn.ReLU
        widen = [_conv(entering, row.wide, 1, activation(inplace=True))] if entering != row.wide else []
        self.block = nn.Sequential(
            *widen,
            _conv(row.wide, row.wide, row.kernel, activation(inplace=True), row.stride, groups=row.wide),
            *([SqueezeExcitation(row.wide)] if row.squeezes else []),
            _conv(row.wide, row.leaving, 1, None),
        )
        self.adds = row.stride == 1 and entering == row.leaving

    def forward(self, features: Tensor) -> Tensor:
        """(B, entering, h, w) to (B, leaving, h / stride, w / stride)."""
        out: Tensor = self.block(features)
        return features + out if self.adds else out


class SqueezeExcitation(nn.Module):
    """Each channel times a factor in [0, 1] that two layers make of all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = _eights(channels // 4)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w), same shape."""
        means = F.adaptive_avg_pool2d(features, 1)
        return features * F.hardsigmoid(self.fc2(F.relu(self.fc1(means))))


def _eights(channels: int) -> int:
    """The multiple of 8 nearest to `channels`, the next one where that would lose more than a tenth."""
    rounded = max(8, (channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _conv(
    entering: int, leaving: int, kernel: int, activation: nn.Module | None, stride: int = 1, *, groups: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(entering, leaving, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(leaving, eps=0.001, momentum=0.01)
    return nn.Sequential(conv, norm, *([] if activation is None else [activation]))
