"""MobileOne-S0 (Vasu et al. 2023): depthwise and 1x1 convolutions in use, up to six branches each in training."""

from __future__ import annotations

from torch import nn

from placecell.backbones.branches import Branches, ConvNorm, Sum
from placecell.backbones.contract import Backbone, Tap

_WIDTHS = (48, 48, 128, 256, 1024)
_PAIRS = (0, 2, 8, 10, 1)
_COPIES = 4


class MobileOne(Backbone):
    """MobileOne-S0 without its classifier, as its authors name it: 4,268,272 parameters, 1,053,504 when fused."""

    stages = ("stage0", "stage1", "stage2", "stage3", "stage4")

    def __init__(self) -> None:
        super().__init__()
        self.stage0 = _block(3, 48, 3, stride=2, copies=1)
        self.taps = {"stage0": Tap(48, 2)}
        for index in (1, 2, 3, 4):
            entering, leaving = _WIDTHS[index - 1], _WIDTHS[index]
            blocks: list[Branches] = []
            for pair in range(_PAIRS[index]):
                blocks.append(_block(entering, entering, 3, stride=2 if pair == 0 else 1, groups=entering))
                blocks.append(_block(entering, leaving, 1))
                entering = leaving
            self.add_module(f"stage{index}", nn.Sequential(*blocks))
            self.taps[f"stage{index}"] = Tap(leaving, 2 << index)


def _block(
    entering: int, leaving: int, kernel: int, *, stride: int = 1, groups: int = 1, copies: int = _COPIES
) -> Branches:
    branches: dict[str, nn.Module] = {
        "rbr_conv": Sum({str(i): ConvNorm(entering, leaving, kernel, stride, groups) for i in range(copies)})
    }
    if kernel > 1:
        branches["rbr_scale"] = ConvNorm(entering, leaving, 1, stride, groups)
    if stride == 1 and entering == leaving:
        branches["rbr_skip"] = nn.BatchNorm2d(leaving)
    return Branches(branches)
