"""The network of DSAC*: pictures to scene coordinates by convolutions alone, at sizes that two cores can train."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 8
"""Pixels of a cell's side."""


class CoordinateNetwork(nn.Module):
    """Normalised pictures (B, 3, H, W) to coordinates (B, 3, H // 8, W // 8) in the frame of the map.

    Four convolutions down to a stride of 8, two residual blocks that look around, then 1 x 1 ones (DSAC*, fig. 3, from
    memory: its widths are up to 512 where ours are up to `width`). No norms: a step sees few pictures.
    The output is `middle + size * o`, o the numbers of the last layer, so that these are about 1 large everywhere.
    """

    def __init__(
        self, *, width: int = 256, grey: bool = False, middle: Tensor | None = None, size: float = 1.0
    ) -> None:
        """A network of weights drawn from torch's default generator: seed inside `torch.random.fork_rng()`.

        Args:
            width: channels of the last layers, a multiple of 8.
            grey: look at the brightness of pictures only.
            middle: (3,) of the scene, in the frame of the map; its origin when None.
            size: how far from the middle things lie, in scene units.
        """
        super().__init__()
        if width < 8 or width % 8:
            raise ValueError(f"width is a positive multiple of 8, not {width}")
        self.grey = grey
        widths = (1 if grey else 3, width // 8, width // 4, width // 2, width)
        strides = (1, 2, 2, 2)
        layers = [nn.Conv2d(*two, 3, stride, padding=1) for two, stride in zip(pairwise(widths), strides, strict=True)]
        self.down = nn.ModuleList(layers)
        for layer in layers:  # torch's own would let a picture fade on its way through
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.around = nn.ModuleList(_Block(width, 3) for _ in range(2))
        self.apart = nn.ModuleList(_Block(width, 1) for _ in range(2))
        self.last = nn.Conv2d(width, 3, 1)
        self.register_buffer("middle", torch.zeros(3) if middle is None else middle.float())
        self.register_buffer("size", torch.tensor(float(size)))
        self.middle: Tensor
        self.size: Tensor

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """(B, 3, h, w) in float32, one a whole cell of 8 x 8 pixels."""
        height, width = (side // STRIDE for side in images_B3HW.shape[-2:])
        features = images_B3HW[..., : height * STRIDE, : width * STRIDE]
        if self.grey:  # of normalised colours, which are about as wide each
            features = features.mean(1, keepdim=True)
        for layer in self.down:
            features = F.relu(layer(features))
        for block in (*self.around, *self.apart):
            features = block(features)
        with torch.autocast(features.device.type, enabled=False):  # half a precision would round places to centimetres
            offsets: Tensor = self.last(features.float())
        return self.middle.view(3, 1, 1) + self.size * offsets


class _Block(nn.Module):
    """Three convolutions, the middle one 1 x 1, added to what goes in."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(width, width, side, padding=side // 2) for side in (kernel, 1, kernel))

    def forward(self, features: Tensor) -> Tensor:
        found = features
        for layer in self.layers:
            found = F.relu(layer(found))
        return features + found
