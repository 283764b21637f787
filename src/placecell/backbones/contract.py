"""What every backbone is: pictures in, feature maps out, fine to coarse."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MEAN = (0.485, 0.456, 0.406)
"""Mean of the ImageNet pictures, RGB in [0, 1]."""
STD = (0.229, 0.224, 0.225)
"""Standard deviation of the ImageNet pictures, RGB in [0, 1]."""


def picture_tensor(images: NDArray[np.uint8]) -> Tensor:
    """(B, 3, H, W) float32 as backbones take it, of RGB uint8 (B, H, W, 3); channels last in memory."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    pixels = torch.from_numpy(np.require(images, requirements=("C", "W"))).permute(0, 3, 1, 2).float()
    return pixels.mul_(1 / (255 * std)).sub_(mean / std)


class Tap(NamedTuple):
    """A feature map a backbone gives."""

    channels: int
    stride: int
    """Pixels of the picture a cell."""


class Backbone(nn.Module):
    """A convolutional network without its classifier: `stages` run one after the other, `taps` are what they give.

    Input is float RGB (B, 3, H, W), normalised: (rgb / 255 - MEAN) / STD. Output is one map a tap, named by the stage
    it comes from, (B, channels, h, w) with h = H / stride rounded up or down, halving by halving: who joins maps of
    two strides resizes one to the other. Each of the strides 4, 8, 16 and 32 has a tap (networks of timm: as they
    have). Parameter names are torchvision's where it has the network, else its authors'. Constructors draw the first
    weights from torch's default generator: seed inside `torch.random.fork_rng()`.
    """

    taps: dict[str, Tap]
    """By stage, fine to coarse; the last is the final feature map."""
    stages: tuple[str, ...]
    """Names of submodules, in the order they run; each takes what the one before gives."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The feature maps of a batch of normalised pictures (B, 3, H, W), in the order of `taps`."""
        maps: dict[str, Tensor] = {}
        features = images
        for stage in self.stages:
            features = self.get_submodule(stage)(features)
            if stage in self.taps:
                maps[stage] = features
        return maps

    def cut(self, last: str) -> None:
        """Drop the stages behind the tap `last`, and their parameters: for those who read no coarser map.

        Networks that run no `stages`, as timm's, stay whole.
        """
        if last not in self.stages:
            return
        kept = self.stages.index(last) + 1
        for stage in self.stages[kept:]:
            parent, _, name = stage.rpartition(".")
            setattr(self.get_submodule(parent), name, nn.Identity())
        self.stages = self.stages[:kept]
        self.taps = {stage: tap for stage, tap in self.taps.items() if stage in self.stages}
