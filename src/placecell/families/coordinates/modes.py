"""Modes of pixels with depth against poses: the top-hat error of Shotton et al. 2013, and Kabsch on who agrees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from placecell.pose import Array, closest_rotation
from placecell.rigid import kabsch, same_triangles, squared_distances

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]

_DRAWS = 16
"""Samples drawn at once for each hypothesis wanted: most do not keep their distances."""
_MOST_DRAWS = 32
_CHUNK = 1 << 19
"""Numbers looked at together: as many as a core keeps near itself."""
_NOWHERE = 1e9


@dataclass(frozen=True, eq=False)
class Modes:
    """Up to K modes of N pixels with depth."""

    world: Floats
    """(K, N, 3), far away where a pixel has fewer modes."""
    cam: Floats
    """(N, 3) in camera axes."""
    weight: Floats
    """(K, N)."""
    spread: Floats
    """(K, N) standard deviation of a mode an axis, but for a factor that all share."""
    max_error_m: float

    def __len__(self) -> int:
        return len(self.cam)

    def only(self, pixels: Indices) -> Modes:
        """Those of some pixels."""
        world, weight, spread = (values[:, pixels] for values in (self.world, self.weight, self.spread))
        return Modes(world, self.cam[pixels], weight, spread, self.max_error_m)

    def hypotheses(self, count: int, random: np.random.Generator) -> tuple[Floats, Floats]:
        """Rotations (H, 3, 3) and translations (H, 3) of `world_from_cam`, from up to `count` triples of pixels.

        Each pixel comes with one mode, drawn by weight; a triple counts when its triangle has the same sides in the
        world and in the camera, and is not flatter than the error it may have.
        """
        mode, pixel = np.divmod(drawn_by(self.weight, _DRAWS * count, random), len(self))
        world, cam = self.world[mode, pixel], self.cam[pixel]
        triples = np.zeros((0, 3), dtype=np.intp)
        for _ in range(_MOST_DRAWS):
            tried = random.integers(0, len(pixel), (_DRAWS * count, 3))
            kept = same_triangles(world, cam, tried, max_error=self.max_error_m, height=self.max_error_m)
            triples = np.concatenate([triples, kept])[:count]
            if len(triples) == count:
                break
        return _single(*kabsch(world[triples], cam[triples]))

    def energy(self, rotation: Floats, translation: Floats) -> Array:
        """(H,) pixels that have no mode within `max_error_m` of where a pose puts them."""
        found = np.zeros(len(rotation))
        for some in chunks(len(rotation), self.weight.size):
            nearest = self._squares(rotation[some], translation[some]).min(axis=0)
            found[some] = (nearest >= self.max_error_m**2).sum(axis=1)
        return found

    def refined(self, rotation: Floats, translation: Floats) -> tuple[Floats, Floats]:
        """Each pose by Kabsch on its inliers; one of fewer than three stays as it is."""
        moments = self._moments(rotation, translation)
        count = np.maximum(moments[:, :1], 1.0)
        world, cam, cross = moments[:, 1:4] / count, moments[:, 4:7] / count, moments[:, 7:].reshape(-1, 3, 3)
        turned = closest_rotation(cross / count[..., None] - world[:, :, None] * cam[:, None, :])
        moved = world - (turned @ cam[..., None])[..., 0]
        fixed = moments[:, 0] >= 3
        return _single(np.where(fixed[:, None, None], turned, rotation), np.where(fixed[:, None], moved, translation))

    def nearest(self, rotation: Array, translation: Array) -> tuple[Floats, Floats]:
        """(N, 3) mode of each pixel that is nearest to where one pose puts it, and its (N,) spread."""
        off = np.linalg.norm(self.world - (self.cam @ rotation.T + translation), axis=-1)
        chosen = (off.argmin(axis=0), np.arange(len(self)))
        return self.world[chosen], self.spread[chosen]

    def _moments(self, rotation: Floats, translation: Floats) -> Array:
        """(H, 16) sums of 1, x_world, x_cam and x_world x_camᵀ over the inliers: all that Kabsch needs of them."""
        outer = (self.world[..., :, None] * self.cam[:, None, :]).reshape(*self.weight.shape, 9)
        ones, cam = np.ones((*self.weight.shape, 1), np.float32), np.broadcast_to(self.cam, self.world.shape)
        terms = np.concatenate([ones, self.world, cam, outer], axis=-1)
        moments = np.zeros((len(rotation), 16))
        for some in chunks(len(rotation), self.weight.size):
            squares = self._squares(rotation[some], translation[some])
            limit = np.minimum(squares.min(axis=0), np.float32(self.max_error_m**2))
            for mode, term in zip(squares, terms, strict=True):
                moments[some] += (mode <= limit).astype(np.float32) @ term
        return moments

    def _squares(self, rotation: Floats, translation: Floats) -> Floats:
        """(K, H, N) squared distances of the modes from where H poses put the pixels."""
        found = np.empty((len(self.world), len(rotation), len(self)), dtype=np.float32)
        for mode, world in zip(found, self.world, strict=True):
            mode[:] = squared_distances(rotation, translation, world, self.cam)
        return found


def modes_of(
    points_world: Floats,
    points_cam: Floats,
    weight: Floats,
    covariance: Floats | None,
    max_error_m: float,
) -> tuple[Modes, Array]:
    """The modes of the pixels that have depth and a mode, and the origin (3,) amid them that they are given about.

    About an origin of their own single precision is enough.
    """
    usable = np.isfinite(points_cam).all(axis=1) & (weight > 0).any(axis=1)
    shares = np.ascontiguousarray(weight[usable].T)
    world = points_world[usable].transpose(1, 0, 2).astype(np.float64)
    origin = np.median(world[shares > 0], axis=0) if usable.any() else np.zeros(3)
    world = np.where(shares[..., None] > 0, world - origin, _NOWHERE)
    spread = np.ones(shares.shape, dtype=np.float32)
    if covariance is not None:
        variance = np.trace(covariance[usable], axis1=-2, axis2=-1).T / 3
        spread = np.sqrt(np.where(shares > 0, variance, 1.0)).astype(np.float32)
    return Modes(world.astype(np.float32), points_cam[usable], shares, spread, max_error_m), origin


def drawn_by(weight: Floats, count: int, random: np.random.Generator) -> Indices:
    """(count,) flat indices drawn by weight: one from each of `count` equal shares of the sum of the weights."""
    total = np.cumsum(weight, dtype=np.float64)
    at = (np.arange(count) + random.random(count)) * (total[-1] / count)
    indices: Indices = np.minimum(np.searchsorted(total, at, side="right"), len(total) - 1)
    return indices


def chunks(count: int, each: int) -> Iterator[slice]:
    """Slices of `count` poses that look at `each` modes."""
    step = max(_CHUNK // max(each, 1), 1)
    return (slice(first, first + step) for first in range(0, count, step))


def _single(rotation: Array, translation: Array) -> tuple[Floats, Floats]:
    return rotation.astype(np.float32), translation.astype(np.float32)
