"""A backbone that trains in a blink, and settings to go with it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from placecell.backbones import Backbone, Tap
from placecell.families.regression.config import Regression


class Patches(Backbone):
    """Six convolutions whose kernels are their strides, so that no cell sees beyond its own pixels."""

    stages = ()

    def __init__(self) -> None:
        super().__init__()
        self.taps = {f"stage{i}": Tap(8 + i, 2 << i) for i in range(4)} | {"last": Tap(12, 32)}
        widths = [3, *(tap.channels for tap in self.taps.values())]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in pairwise(widths))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps, features = {}, images
        for tap, conv in zip(self.taps, self.convs, strict=True):
            features = maps[tap] = F.leaky_relu(conv(features), 0.3)
        return maps


def settings(**changes: Any) -> Regression:
    """Settings of a small network of pictures of 64 pixels: a grid head, 6D rotations, learned weights."""
    small = {"backbone": "patches", "head": "grid", "hidden": 64, "rotation": "6d", "loss": "learned"}
    return Regression(**(small | {"short_side": 64, "crop": 64} | changes))


def pictures(batch: int = 2, height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    """Normalised noise (B, 3, H, W)."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))
