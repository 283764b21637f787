"""How a coordinate network begins: from depth, from points, or from reprojection alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from placecell.families.coordinates.dsac.expected import Ransac
from placecell.families.coordinates.dsac.judging import median_errors
from placecell.families.coordinates.dsac.lessons import Lessons
from placecell.families.coordinates.dsac.shots import cell_pixels
from placecell.geometry_torch import product


@dataclass(frozen=True)
class Beginning:
    """The numbers of DSAC*'s first stage, lengths in scene units."""

    tolerance: float = 0.1
    """A coordinate this far from where it is known to belong is taught by reprojection, one farther by distance."""
    nearest: float = 0.1
    farthest: float = 1000.0
    """Depths between which a coordinate can be right."""
    proxy: float = 10.0
    """Depth towards which a coordinate is drawn that cannot be right, where nothing is known of it."""
    soft_px: float = 100.0
    """Error above which it counts by its root only."""
    hard_px: float = 1000.0
    """Reprojection error above which a coordinate cannot be right."""

    def __post_init__(self) -> None:
        if not 0 < self.nearest < self.proxy < self.farthest or min(self.tolerance, self.soft_px, self.hard_px) <= 0:
            raise ValueError(f"numbers of a beginning are positive, nearest < proxy < farthest: {self}")


@dataclass(frozen=True, eq=False)
class Initial:
    """A `placecell.train` task: coordinates from pictures, taught cell by cell with `initial_loss`.

    What the shots know decides which beginning it is: depth, points, or poses alone.
    """

    lessons: Lessons
    numbers: Beginning = field(default_factory=Beginning)
    rgbd: bool = False
    """Queries will have depth: coordinates are taught by distance only, for 3D-3D poses."""
    ransac: Ransac = field(default_factory=Ransac)
    """What it is judged by."""

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> dict[str, Tensor]:
        """As `Lessons.batch`."""
        return self.lessons.batch(step, rank, ranks)

    def named(self, step: int) -> list[str]:
        """The frames of a step."""
        return self.lessons.named(step)

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """The loss in pixels, and which share of the cells projects to within 10 px of itself."""
        coordinates = network(batch["images"])
        pixels = torch.from_numpy(cell_pixels(self.lessons.shots.camera, self.lessons.stride)).to(coordinates)
        loss, errors_px = initial_loss(coordinates, pixels, batch, self.numbers, rgbd=self.rgbd)
        return {"loss": loss, "within_10px": (errors_px.detach() < 10).float().mean()}

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Median pose errors over the held-out shots as they are."""
        lessons = self.lessons
        return median_errors(network, lessons.shots, lessons.held, self.ransac, stride=lessons.stride, rgbd=self.rgbd)


def initial_loss(
    coordinates_B3hw: Tensor,
    pixels_hw2: Tensor,
    batch: Mapping[str, Tensor],
    numbers: Beginning,
    *,
    rgbd: bool = False,
) -> tuple[Tensor, Tensor]:
    """The mean over the cells of how far off they are, in pixels, and their reprojection errors (B, N).

    DSAC* (sec. 3.4): a coordinate y in camera axes that can be right (its depth, its reprojection error and, where the
    point y* is known, |y - y*| are within bounds) counts with its reprojection error e; another with its distance to
    y*, or where nothing is known to a proxy on its ray; e > `soft_px` counts as √(soft e). Ours: distances are counted
    as the pixels that they are at the depth of their target, f |y - y*| / z*, so that neither the unit of the scene
    nor the border between the two kinds matters. With `rgbd` all known cells count by distance, the others not at all.
    """
    points = coordinates_B3hw.flatten(2).mT
    seen, known_px = batch["seen"].flatten(1, 2), pixels_hw2.flatten(0, 1).to(points)
    points_cam = product(points - batch["centre"].unsqueeze(1), batch["rotation"])
    focal, middle = batch["K"].diagonal(dim1=1, dim2=2)[:, None, :2], batch["K"][:, None, :2, 2]
    depth = points_cam[..., 2:]
    image = points_cam[..., :2] / depth.clamp_min(numbers.nearest) * focal + middle
    errors_px = _length(image - known_px)
    known = seen.isfinite().all(-1)
    rays = torch.cat([(known_px - middle) / focal, torch.ones_like(depth)], dim=-1)
    target = torch.where(known.unsqueeze(-1), seen, numbers.proxy * rays)
    away = _length(points_cam - target)
    away_px = focal.mean(-1) * away / target[..., 2].clamp_min(numbers.nearest)
    if rgbd:
        return (_soft(away_px, numbers.soft_px) * known).sum() / known.sum().clamp_min(1), errors_px
    right = (depth[..., 0] > numbers.nearest) & (depth[..., 0] < numbers.farthest) & (errors_px < numbers.hard_px)
    right &= ~known | (away < numbers.tolerance)
    return _soft(torch.where(right, errors_px, away_px), numbers.soft_px).mean(), errors_px


def _length(vectors: Tensor) -> Tensor:
    return (vectors.square().sum(-1) + 1e-12).sqrt()


def _soft(errors_px: Tensor, bound_px: float) -> Tensor:
    return torch.where(errors_px > bound_px, (bound_px * errors_px.clamp_min(bound_px)).sqrt(), errors_px)
