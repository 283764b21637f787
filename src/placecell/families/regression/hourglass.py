"""Hourglass-Pose (Melekhov et al. 2017): features are brought back to a fine grid before the pose is read from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

_WIDTHS = (256, 128, 64)
_CODE = 32


class Hourglass(nn.Module):
    """Maps of strides 4, 8, 16, 32 to a feature (B, hidden).

    Melekhov et al. put a chain of up-convolutions behind a ResNet34 without its last pooling, joined to the encoder by
    skip connections (by sum in their better variant), and a regressor on top. Our reading of what we could not see:

    - an up-convolution is 4x4 with stride 2, then batch norm and ReLU, of 256, 128 and 64 channels, to stride 4;
    - a skip connection is a 1x1 convolution of the encoder's map, added before the ReLU;
    - the regressor is a 3x3 convolution to 32 channels and ReLU, averaged over cells of stride 16 so that it knows
      where things are and fits any picture, then a fully connected layer with ReLU and dropout before the outputs.
    """

    def __init__(self, channels: Sequence[int], grid: tuple[int, int], hidden: int, dropout: float) -> None:
        """`channels` of the four maps, fine to coarse; `grid` is rows and columns of stride 16."""
        super().__init__()
        *finer, last = channels
        self.grid = grid
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)
            for before, after in zip((last, *_WIDTHS), _WIDTHS, strict=False)
        )
        self.norm = nn.ModuleList(nn.BatchNorm2d(width) for width in _WIDTHS)
        self.skip = nn.ModuleList(nn.Conv2d(c, width, 1) for c, width in zip(finer[::-1], _WIDTHS, strict=True))
        self.code = nn.Conv2d(_WIDTHS[-1], _CODE, 3, padding=1)
        self.fc = nn.Linear(_CODE * grid[0] * grid[1], hidden)
        self.dropout = nn.Dropout(dropout)
        self.features = hidden

    def forward(self, *maps: Tensor) -> Tensor:
        """The feature of four maps, fine to coarse."""
        *finer, decoded = maps
        for map_BCHW, up, norm, skip in zip(finer[::-1], self.up, self.norm, self.skip, strict=True):
            finer_map = skip(map_BCHW)
            decoded = F.relu(norm(_of_size(up(decoded), finer_map)) + finer_map)
        code = F.adaptive_avg_pool2d(F.relu(self.code(decoded)), self.grid)
        feature: Tensor = self.dropout(F.relu(self.fc(code.flatten(1))))
        return feature


def _of_size(map_BCHW: Tensor, other_BCHW: Tensor) -> Tensor:
    """The map with the cells of another: a row or column more or less where a picture does not halve evenly."""
    size = other_BCHW.shape[-2:]
    return map_BCHW if map_BCHW.shape[-2:] == size else F.interpolate(map_BCHW, size=size, mode="nearest")
