"""MobileNetV2, width 1 (Sandler et al. 2018)."""

from __future__ import annotations

from torch import Tensor, nn

from placecell.backbones.contract import Backbone, Tap

_EXPANSION_CHANNELS_COUNT_STRIDE = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(Backbone):
    """torchvision's mobilenet_v2 without its classifier: 2,223,872 parameters."""

    stages = tuple(f"features.{index}" for index in range(19))

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 32, 3, stride=2)]
        entering = 32
        for expansion, leaving, count, first_stride in _EXPANSION_CHANNELS_COUNT_STRIDE:
            for index in range(count):
                layers.append(InvertedResidual(entering, leaving, first_stride if index == 0 else 1, expansion))
                entering = leaving
        self.features = nn.Sequential(*layers, _conv(entering, 1280, 1))
        self.taps = {
            "features.1": Tap(16, 2),
            "features.3": Tap(24, 4),
            "features.6": Tap(32, 8),
            "features.13": Tap(96, 16),
            "features.18": Tap(1280, 32),
        }
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow without a nonlinearity; the input is added where shapes agree."""

    def __init__(self, entering: int, leaving: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = entering * expansion
        widen = [_conv(entering, wide, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *widen,
            _conv(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, leaving, 1, bias=False),
            nn.BatchNorm2d(leaving),
        )
        self.adds = stride == 1 and entering == leaving

    def forward(self, features: Tensor) -> Tensor:
        """(B, entering, h, w) to (B, leaving, h / stride, w / stride)."""
        out: Tensor = self.conv(features)
        return features + out if self.adds else out


def _conv(entering: int, leaving: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(entering, leaving, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(leaving),
        nn.ReLU6(inplace=True),
    )
