"""A place made of numbers: a camera, what its cells show, and coordinates that are right but for noise and outliers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from placecell.camera import Camera
from placecell.families.coordinates.dsac.sights import Depths, Pixels, Sight
from placecell.pose import Array, Pose

# Nothing in the middle and nothing square, so that nothing can be swapped without a test noticing.
CAMERA = Camera(320, 240, 260.0, 270.0, 150.0, 125.0)
KINDS = ("rgb", "rgbd")
MAX_ERROR = {"rgb": 10.0, "rgbd": 0.1}


class Place(NamedTuple):
    map_from_cam: Pose
    pixels: Array
    points_cam: Array
    points_map: Array
    outliers: NDArray[np.bool_]

    @property
    def truth(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.map_from_cam.rotation), torch.tensor(self.map_from_cam.translation)

    def sight(self, kind: str) -> Sight:
        return Pixels.of(self.pixels, CAMERA) if kind == "rgb" else Depths.of(self.points_cam)

    def coordinates(self) -> Tensor:
        return torch.tensor(self.points_map)


def place_of(seed: int = 0, *, points: int = 60, noise: float = 0.01, outliers: float = 0.2) -> Place:
    rng = np.random.default_rng(seed)
    pose = Pose.exp(rng.normal(size=6))
    pixels = rng.uniform((0, 0), (CAMERA.width, CAMERA.height), (points, 2))
    points_cam = CAMERA.rays(pixels) * rng.uniform(1, 4, (points, 1))
    points_map = pose.apply(points_cam) + noise * rng.normal(size=(points, 3))
    wrong = rng.random(points) < outliers
    points_map[wrong] += rng.normal(size=(wrong.sum(), 3))
    return Place(pose, pixels, points_cam, points_map, wrong)


def poses_near(place: Place, count: int, size: float, seed: int = 1) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    poses = [place.map_from_cam @ Pose.exp(size * rng.normal(size=6)) for _ in range(count)]
    rotations, centres = np.stack([p.rotation for p in poses]), np.stack([p.translation for p in poses])
    return torch.from_numpy(rotations), torch.from_numpy(centres)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def differences(value: Callable[[Tensor], Tensor], at: Tensor, *, step: float = 1e-6) -> Tensor:
    """Central differences of a scalar by every number of a tensor."""
    slopes = torch.zeros(at.numel(), dtype=torch.float64)
    with torch.no_grad():
        for index in range(at.numel()):
            offset = torch.zeros(at.numel(), dtype=at.dtype)
            offset[index] = step
            offset = offset.view_as(at)
            slopes[index] = (value(at + offset) - value(at - offset)) / (2 * step)
    return slopes.view_as(at)


def slopes_of(value: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The same by autograd."""
    leaf = at.clone().requires_grad_()
    (found,) = torch.autograd.grad(value(leaf), leaf)
    return found


def directions(at: Tensor, count: int = 5) -> list[Tensor]:
    """Some directions of length 1 to move all numbers of a tensor in at once."""
    drawn = [torch.randn(at.shape, generator=generator(seed), dtype=at.dtype) for seed in range(count)]
    return [direction / direction.norm() for direction in drawn]


def require_slopes(value: Callable[[Tensor], Tensor], at: Tensor, *, step: float = 1e-6) -> None:
    """See that autograd's derivative along some directions is that of central differences."""
    slopes = slopes_of(value, at)
    assert slopes.norm() > 0
    with torch.no_grad():
        for direction in directions(at):
            expected = (value(at + step * direction) - value(at - step * direction)) / (2 * step)
            torch.testing.assert_close(
                (slopes * direction).sum(), expected, rtol=1e-4, atol=1e-5 * float(slopes.norm())
            )
