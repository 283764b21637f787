"""A pose read off an alignment: where each cell of the picture lies before the camera, and where in the world."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from placecell.backbones import Tap
from placecell.camera import Camera
from placecell.errors import MapError
from placecell.families.regression.reading import LEAST_WEIGHT, MOST_LOG_DEPTH
from placecell.geometry_torch import matrix_from_9d, product, transform
from placecell.pose import Array

STRIDE = 16
"""Pixels from one cell to the next."""


class Surface(NamedTuple):
    """What the network says of the N cells of B pictures, row by row."""

    points_BN3: Tensor
    """In the anchor frame, in the unit of the scene."""
    depth_BN: Tensor
    """Along z of the camera, in the unit of the scene."""
    weight_BN: Tensor
    """How much each cell says about the pose; they add up to 1."""


class Aligned(NamedTuple):
    """What the head says of B pictures."""

    centre_B3: Tensor
    """In the anchor frame, in the unit of the scene."""
    rotation_B33: Tensor
    """`anchor_from_cam`."""
    raw_BK: Tensor
    """(B, 9) the matrix whose closest rotation that is, row by row."""
    feature_BD: Tensor
    surface: Surface
    misfit_B2: Tensor
    """Logs of how badly the alignment fits, and of how many cells it rests on."""


class Alignment(nn.Module):
    """The map of stride 16 to a pose, by way of a surface.

    Each cell i says five numbers: where it is in the anchor frame, X_i; how deep before the camera, which with the ray
    through its middle makes p_i; and a weight w_i. The pose is the rigid motion that best lays the p onto the X
    (weighted Procrustes; Kabsch 1976): with means X̄ and p̄ by weight,

        R = the rotation closest to Σ w_i (X_i - X̄) (p_i - p̄)ᵀ,    x = X̄ - R p̄.

    So rotation and centre come from one measurement, and a new view of a known place is not a new pose to be learned by
    heart, but known cells at other places of the picture. The matrix is Levinson's 9 numbers with a meaning. Altillawi
    et al. (Implicit Learning of Scene Geometry from Poses for Global Localization, 2024) regress poses like this from
    poses alone; where the scene has depth or points, `surface_loss` tells the cells directly. No RANSAC: the weights
    are what doubts. Coarser maps see the whole picture, and with it could learn the pose by heart again: left out,
    training is faster and no worse.
    """

    def __init__(self, taps: Mapping[str, Tap], hidden: int, grid: tuple[int, int], dropout: float = 0.0) -> None:
        """A head for `grid` rows and columns of cells; `begin` has to be called before training.

        Raises:
            MapError: the backbone has no map of that stride.
        """
        super().__init__()
        by_stride = {tap.stride: name for name, tap in taps.items()}
        if STRIDE not in by_stride:
            raise MapError(f"the align head reads a map of stride {STRIDE}; the backbone has those of {[*by_stride]}")
        self.taps = (by_stride[STRIDE],)
        self.grid, self.features = grid, hidden
        self.mix = nn.Sequential(
            nn.Conv2d(taps[self.taps[0]].channels, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.numbers = nn.Conv2d(hidden, 5, 1)
        nn.init.normal_(self.numbers.weight, std=0.1 / math.sqrt(3 * hidden))
        self.numbers.bias = nn.Parameter(torch.zeros(5))
        self.rays: Tensor
        self.depth: Tensor
        self.middle: Tensor
        self.register_buffer("rays", torch.zeros(grid[0] * grid[1], 3))
        self.register_buffer("depth", torch.tensor(1.0))
        self.register_buffer("middle", torch.zeros(3))

    def begin(self, camera: Camera, *, depth: float, middle: Array) -> None:
        """Set what training does not change: the camera, and where surfaces are until the network knows better.

        Args:
            camera: of the pictures as the network sees them.
            depth: of a typical surface, in the unit of the scene.
            middle: (3,) of the place, in the anchor frame.
        """
        self.rays.copy_(torch.from_numpy(cell_rays(camera, self.grid)))
        self.depth.fill_(depth)
        self.middle.copy_(torch.from_numpy(middle))

    def forward(self, maps: Mapping[str, Tensor]) -> Aligned:
        """The pose, in full precision under autocast too."""
        mixed: Tensor = self.mix(maps[self.taps[0]])
        with torch.autocast(mixed.device.type, enabled=False):
            mixed = mixed.to(self.numbers.weight.dtype)
            surface = self._surface(self.numbers(mixed).flatten(2).mT)
            feature = (mixed.flatten(2) * surface.weight_BN.unsqueeze(1)).sum(-1)
            points_cam = self.rays * surface.depth_BN.unsqueeze(-1)
            raw, rotation, centre = aligned(surface.points_BN3, points_cam, surface.weight_BN)
            return Aligned(centre, rotation, raw, feature, surface, self._misfit(surface, rotation, centre))

    def _misfit(self, surface: Surface, rotation_B33: Tensor, centre_B3: Tensor) -> Tensor:
        """(B, 2) log of the weighted RMS of R p + x - X in typical depths, and of 1 / Σ w²."""
        points_cam = self.rays * surface.depth_BN.unsqueeze(-1)
        apart = transform(rotation_B33, centre_B3, points_cam) - surface.points_BN3
        mean_square = (surface.weight_BN * apart.square().sum(-1)).sum(-1) / self.depth.square()
        cells = 1 / surface.weight_BN.square().sum(-1)
        return torch.stack([mean_square.add(1e-8).log() / 2, cells.log()], dim=-1)

    def _surface(self, numbers_BN5: Tensor) -> Surface:
        weight = torch.sigmoid(numbers_BN5[..., 4]) + LEAST_WEIGHT
        depth = self.depth * numbers_BN5[..., 3].clamp(-MOST_LOG_DEPTH, MOST_LOG_DEPTH).exp()
        points = self.middle + self.depth * numbers_BN5[..., :3]
        return Surface(points, depth, weight / weight.sum(-1, keepdim=True))


def cell_rays(camera: Camera, grid: tuple[int, int]) -> Array:
    """(N, 3) through the middles of the cells, row by row, z = 1."""
    columns, rows = np.meshgrid(np.arange(grid[1]) + 0.5, np.arange(grid[0]) + 0.5)
    return camera.rays(STRIDE * np.stack([columns, rows], axis=-1).reshape(-1, 2))


def surface_loss(surface: Surface, points_BN3: Tensor, depth_BN: Tensor) -> Tensor:
    """The mean over known cells of |X̂ - X| + |ẑ - z|, in scene units; cells whose truth is NaN do not count.

    Norms, not squares: the edge of a thing runs through many cells, and there the truth itself is a toss-up.
    """
    known = depth_BN.isfinite()
    points = torch.where(known.unsqueeze(-1), points_BN3, surface.points_BN3.detach())
    depth = torch.where(known, depth_BN, surface.depth_BN.detach())
    distance = (surface.points_BN3 - points).square().sum(-1).add(1e-12).sqrt() + (surface.depth_BN - depth).abs()
    return (distance * known).sum() / known.sum().clamp_min(1)


def aligned(onto_BN3: Tensor, from_BN3: Tensor, weight_BN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rigid motion that best lays points onto others, Σ w |R p + x - X|² at its least (Kabsch 1976).

    Returns:
        (B, 9) the matrix whose closest rotation R is, (B, 3, 3) R, (B, 3) x. Weights add up to 1.
    """
    weight = weight_BN.unsqueeze(-1)
    onto_mean, from_mean = ((weight * points).sum(-2, keepdim=True) for points in (onto_BN3, from_BN3))
    spread = (weight * (onto_BN3 - onto_mean)).unsqueeze(-1) * (from_BN3 - from_mean).unsqueeze(-2)
    raw = spread.sum(-3).flatten(-2)
    rotation = matrix_from_9d(raw)
    return raw, rotation, (onto_mean - product(from_mean, rotation.mT)).squeeze(-2)
