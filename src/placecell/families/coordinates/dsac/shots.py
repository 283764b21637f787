"""What coordinate networks learn from: pictures with their poses, and what is known of the points in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from placecell.augment import Augmentation, Varied
from placecell.backbones import picture_tensor
from placecell.camera import Camera
from placecell.pose import Array

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Shots:
    """N pictures of one pinhole camera with their poses `map_from_cam`."""

    names: Sequence[str]
    camera: Camera
    images: NDArray[np.uint8]
    """(N, H, W, 3) RGB."""
    rotations: Floats
    """(N, 3, 3)."""
    centres: Floats
    """(N, 3) scene units."""
    depths: NDArray[np.floating] | None = None
    """(N, h, w) along z in scene units, NaN where unknown: the camera at any size of picture."""
    points: Sequence[Floats] | None = None
    """Points (M, 3) in the frame of the map that each picture sees; used where there are no `depths`."""

    def __post_init__(self) -> None:
        count, size = len(self.names), (self.camera.height, self.camera.width, 3)
        shapes = (self.images.shape, self.rotations.shape, self.centres.shape)
        if shapes != ((count, *size), (count, 3, 3), (count, 3)) or self.camera.model != "pinhole":
            raise ValueError(f"{count} pictures of a {self.camera.model} camera do not fit together: {shapes}")
        for known in (self.depths, self.points):
            if known is not None and len(known) != count:
                raise ValueError(f"what is known of {len(known)} pictures does not go with {count}")

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Variation:
    """How far pictures are varied when they are learned from; the numbers of DSAC* are 30 degrees, 1.5 and 0.1."""

    turn_deg: float = 30.0
    """About the line of sight."""
    zoom: float = 1.5
    """A picture is enlarged or shrunk by up to this factor, its focal length with it."""
    colour: float = 0.2
    """As `Augmentation.colour`."""

    def vary(self, shots: Shots, index: int, rng: np.random.Generator) -> Varied:
        """One of the pictures, as another camera at its place might have seen it."""
        zoom = self.zoom ** rng.uniform(-1.0, 1.0)
        target = replace(shots.camera, fx=shots.camera.fx * zoom, fy=shots.camera.fy * zoom)
        return Augmentation((0.0, 0.0, self.turn_deg), self.colour).vary(shots.images[index], shots.camera, target, rng)


STILL = Variation(0.0, 1.0, 0.0)
"""Pictures as they are."""


def cell_pixels(camera: Camera, stride: int) -> Array:
    """(h, w, 2) the middles of the whole cells of `stride` pixels of a picture."""
    columns, rows = np.meshgrid(np.arange(camera.width // stride), np.arange(camera.height // stride))
    middles: Array = (np.stack([columns, rows], axis=-1).astype(np.float64) + 0.5) * stride
    return middles


def batch_of(
    shots: Shots, chosen: Sequence[int], variation: Variation, stride: int, rngs: Sequence[np.random.Generator]
) -> dict[str, Tensor]:
    """Varied pictures as tensors: `images` (B, 3, H, W), `rotation` (B, 3, 3) and `centre` (B, 3) of `map_from_varied`,
    `K` (B, 3, 3), and `seen` (B, h, w, 3): the points that the cells show in camera axes, NaN where unknown."""
    varied = [variation.vary(shots, index, rng) for index, rng in zip(chosen, rngs, strict=True)]
    rotations = [
        shots.rotations[index].astype(np.float64) @ one.cam_from_varied
        for index, one in zip(chosen, varied, strict=True)
    ]
    seen = [_seen(shots, index, one, stride) for index, one in zip(chosen, varied, strict=True)]
    return {
        "images": picture_tensor(np.stack([one.image for one in varied])),
        "rotation": torch.from_numpy(np.stack(rotations).astype(np.float32)),
        "centre": torch.from_numpy(shots.centres[list(chosen)]),
        "K": torch.from_numpy(np.stack([one.camera.matrix for one in varied]).astype(np.float32)),
        "seen": torch.from_numpy(np.stack(seen)),
    }


def _seen(shots: Shots, index: int, varied: Varied, stride: int) -> Floats:
    pixels = cell_pixels(varied.camera, stride)
    if shots.depths is not None:
        return seen_by_depth(shots.depths[index], shots.camera, varied, pixels)
    none = np.full((*pixels.shape[:2], 3), np.nan, np.float32)
    if shots.points is None or not len(shots.points[index]):
        return none
    points_cam = (shots.points[index] - shots.centres[index]) @ shots.rotations[index]
    return _by_points(points_cam @ varied.cam_from_varied, varied.camera, stride, none)


def seen_by_depth(depth: NDArray[np.floating], camera: Camera, varied: Varied, pixels: Array) -> Floats:
    """(..., 3) in the axes of the varied camera: what depth (H, W), seen through the old one, has at the pixels.

    NaN where it has nothing. The old camera may be of another size than the depth.
    """
    rays = varied.camera.rays(pixels)
    through = rays @ varied.cam_from_varied.T
    lens = camera.resized(depth.shape[1], depth.shape[0])
    at = lens.project(through)
    inside = lens.contains(at)
    column, row = np.where(inside[..., None], at, 0.0).astype(np.intp).transpose(2, 0, 1)
    # The depth is along the old z; a ray that is 1 long along the new z is `through[2]` long along the old one.
    along = np.where(inside, depth[row, column], np.nan) / np.where(inside, through[..., 2], 1.0)
    return (rays * along[..., None]).astype(np.float32)


def _by_points(points_cam: Array, camera: Camera, stride: int, none: Floats) -> Floats:
    """The nearest of the points that fall into each cell."""
    at = np.nan_to_num(camera.project(points_cam) / stride, nan=-1.0)
    column, row = np.floor(at.clip(-1, 1e6)).astype(np.intp).T
    inside = (column >= 0) & (row >= 0) & (column < none.shape[1]) & (row < none.shape[0])
    order = np.flatnonzero(inside)[np.argsort(-points_cam[inside, 2], kind="stable")]
    seen = none.copy()
    seen[row[order], column[order]] = points_cam[order]  # of several, the last one stays
    return seen
