"""From what a cell looks like to where it lies: the part of a map that learns."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from placecell.families.coordinates.decoding import LEAST_SCALE, MOST_SCALE, NUMBERS, SPREAD, UNIT

_NOISE = 1.0
"""Standard deviations of what whole pictures look like that are added to it in training. GLACE's 0.1 is added to a unit
vector of 256 numbers, 1.6 standard deviations of each; with 0.1 of ours a head learns pictures by heart."""


class Guess(NamedTuple):
    """Where cells lie."""

    points_N3: Tensor
    """In the frame of the anchor, scene units."""
    spread_N: Tensor
    """Log of how far off, in pixels, the projection is expected to be."""


class Head(nn.Module):
    """Residual layers on the features of one cell at a time; its neighbours are seen by the encoder only.

    The point is c + o / w, with c a mean of cluster centres weighed by a softmax, o an offset and w a positive scale:
    the homogeneous output of ACE, and the convex combination of GLACE (Wang et al. 2024), which lets one cell jump
    between far places that look alike.

    With `overall` channels it is told what the whole picture looks like, too; see `Context`.
    """

    def __init__(self, channels: int, hidden: int, blocks: int, clusters: int, overall: int = 0) -> None:
        super().__init__()
        self.enter = nn.Linear(channels, hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(part for _ in range(3) for part in (nn.Linear(hidden, hidden), nn.ReLU())))
            for _ in range(blocks)
        )
        self.last = nn.Linear(hidden, hidden)
        self.leave = nn.Linear(hidden, NUMBERS + clusters)
        nn.init.zeros_(self.leave.bias)
        with torch.no_grad():
            self.leave.weight.mul_(0.1)
        self.register_buffer("mean_C", torch.zeros(channels))
        self.register_buffer("scale_C", torch.ones(channels))
        self.register_buffer("centres_K3", torch.zeros(max(clusters, 1), 3))
        self.register_buffer("size", torch.ones(()))
        self.context = Context(overall, hidden) if overall else None
        self.mean_C: Tensor
        self.scale_C: Tensor
        self.centres_K3: Tensor
        self.size: Tensor

    def begin(self, features_NC: Tensor, centres_K3: Tensor, size: float) -> None:
        """Tell the head what features are like, which centres to begin from, and the size of the scene."""
        self.mean_C.copy_(features_NC.mean(dim=0))
        self.scale_C.copy_(1 / features_NC.std(dim=0).clamp_min(1e-2))
        self.centres_K3.copy_(centres_K3)
        self.size.fill_(size)

    def forward(self, features_NC: Tensor, overall_NG: Tensor | None = None) -> Guess:
        """Where N cells lie, in float32; `overall_NG` is of their pictures, or (1, G) of the one they are all of."""
        entered = self.enter((features_NC.float() - self.mean_C) * self.scale_C)
        if self.context is not None:
            entered = entered + self.context(overall_NG)
        features = F.relu(entered)
        for block in self.blocks:
            features = features + block(features)
        last = F.relu(self.last(features)).float()
        with torch.autocast(last.device.type, enabled=False):  # half a precision would round places to millimetres
            numbers = self.leave(last)
            scale = F.softplus(numbers[:, 3:4] + UNIT).clamp(LEAST_SCALE, MOST_SCALE)
            chosen = (
                torch.softmax(numbers[:, NUMBERS:], dim=1) if numbers.shape[1] > NUMBERS else torch.ones_like(scale)
            )
            middle = chosen @ self.centres_K3
        return Guess(middle + self.size * numbers[:, :3] / scale, numbers[:, SPREAD])


class Context(nn.Module):
    """What a whole picture looks like, added to what its cells look like (GLACE).

    Two places that look alike near by differ in what is about them. Noise in training keeps the head from knowing each
    training picture by heart. GLACE joins both and enters them into one layer, which is the same sum.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels, hidden, bias=False)
        self.register_buffer("mean_G", torch.zeros(channels))
        self.register_buffer("scale_G", torch.ones(channels))
        self.mean_G: Tensor
        self.scale_G: Tensor

    def begin(self, overall_LG: Tensor) -> None:
        """Tell it what pictures are like."""
        self.mean_G.copy_(overall_LG.mean(dim=0))
        self.scale_G.copy_(1 / overall_LG.std(dim=0, correction=0).clamp_min(1e-2))

    def forward(self, overall_NG: Tensor) -> Tensor:
        """(N, hidden)."""
        standard = (overall_NG - self.mean_G) * self.scale_G
        if self.training:
            standard = standard + _NOISE * torch.randn_like(standard)
        told: Tensor = self.layer(standard)
        return told
