"""RepVGG-A0 (Ding et al. 2021): plain 3x3 convolutions in use, three branches each in training."""

from __future__ import annotations

from torch import nn

from placecell.backbones.branches import Branches, ConvNorm
from placecell.backbones.contract import Backbone, Tap

_WIDTHS = (48, 48, 96, 192, 1280)
_BLOCKS = (1, 2, 4, 14, 1)


class RepVGG(Backbone):
    """RepVGG-A0 without its classifier, as its authors name it: 7,827,968 parameters, 7,028,384 when fused."""

    stages = ("stage0", "stage1", "stage2", "stage3", "stage4")

    def __init__(self) -> None:
        super().__init__()
        self.stage0 = _block(3, 48, 2)
        self.taps = {"stage0": Tap(48, 2)}
        for index in (1, 2, 3, 4):
            entering, leaving = _WIDTHS[index - 1], _WIDTHS[index]
            rest = [_block(leaving, leaving, 1) for _ in range(_BLOCKS[index] - 1)]
            self.add_module(f"stage{index}", nn.Sequential(_block(entering, leaving, 2), *rest))
            self.taps[f"stage{index}"] = Tap(leaving, 2 << index)


def _block(entering: int, leaving: int, stride: int) -> Branches:
    branches: dict[str, nn.Module] = {
        "rbr_dense": ConvNorm(entering, leaving, 3, stride),
        "rbr_1x1": ConvNorm(entering, leaving, 1, stride),
    }
    if stride == 1 and entering == leaving:
        branches["rbr_identity"] = nn.BatchNorm2d(leaving)
    return Branches(branches)
