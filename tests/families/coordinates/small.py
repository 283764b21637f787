"""A coordinate map that is built in a blink: an encoder without training, few cells, a small head."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from placecell.backbones import Backbone, Tap
from placecell.families.coordinates.config import Coordinates
from placecell.families.coordinates.encoder import MIDDLE_PX, STRIDE


class Averages(Backbone):
    """Mean colours: what a cell looks like is exactly what lies in its square."""

    stages = ()

    def __init__(self) -> None:
        super().__init__()
        self.taps = {f"pool{stride}": Tap(3, stride) for stride in (4, 8, 16)}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {name: F.avg_pool2d(images, tap.stride) for name, tap in self.taps.items()}


class Around(Averages):
    """Mean colours of squares about where cells look."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        moved = int(STRIDE / 2 - MIDDLE_PX)
        around = F.pad(images, (moved, 0, moved, 0), mode="replicate")
        return super().forward(around[..., : images.shape[-2], : images.shape[-1]])


def settings(**changes: Any) -> Coordinates:
    """Settings of a small head on random features of pictures of 120 pixels."""
    small: dict[str, Any] = {
        "backbone": "patches",
        "weights": "none",
        "short_side": 120,
        "looks": 2,
        "samples": 64,
        "hidden": 32,
        "blocks": 1,
        "clusters": 8,
        "epochs": 2.0,
        "batch": 256,
        "precision": "fp32",
        "least": 8,
    }
    return Coordinates(**(small | changes))
