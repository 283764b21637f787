"""Where points are and how surely, in 22 bytes a point, and who saw them, in about one byte a sighting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from placecell.pose import Array

_BLOCK = 256
_LEVELS = 65535
_LOWER = np.tril_indices(3)


@dataclass(frozen=True, eq=False)
class Places:
    """N points with their covariances, as a map keeps them.

    A point is three numbers of 16 bits between the least and the largest coordinate of its block: 256 points that
    follow each other, which a map has from the same few pictures. A covariance is the lower triangle of its Cholesky
    factor, in half precision relative to the largest of its six numbers.
    """

    code: NDArray[np.uint16]
    """(N, 3)."""
    least: NDArray[np.float64]
    """(ceil(N / 256), 3) world; what code 0 is in each block."""
    step: NDArray[np.float64]
    """(ceil(N / 256), 3) what a code is more than the one before."""
    factor: NDArray[np.float16]
    """(N, 6) lower triangle, row by row, divided by `size`."""
    size: NDArray[np.float32]
    """(N,) the largest of the factor's numbers, scene unit."""

    @classmethod
    def of(cls, points_world: Array, covariance: Array) -> Self:
        """The nearest that can be kept of points (N, 3) and their covariances (N, 3, 3) in world axes."""
        starts = np.arange(0, len(points_world), _BLOCK)
        least = np.minimum.reduceat(points_world, starts)
        step = (np.maximum.reduceat(points_world, starts) - least) / _LEVELS
        step[step == 0] = 1.0  # a block without extent: any step will do
        block = np.arange(len(points_world)) // _BLOCK
        code = np.rint((points_world - least[block]) / step[block]).clip(0, _LEVELS).astype(np.uint16)
        factor = _cholesky(covariance)[:, *_LOWER]
        size = np.maximum(np.abs(factor).max(axis=1), 1e-30).astype(np.float32)
        return cls(code, least, step, (factor / size[:, None]).astype(np.float16), size)

    def __len__(self) -> int:
        return len(self.code)

    @cached_property
    def points_world(self) -> Array:
        """(N, 3)."""
        block = np.arange(len(self.code)) // _BLOCK
        points: Array = self.least[block] + self.code * self.step[block]
        return points

    def covariance(self, points: NDArray[np.integer]) -> Array:
        """(n, 3, 3) of some of the points, world axes."""
        factor = np.zeros((len(points), 3, 3))
        factor[:, *_LOWER] = self.factor[points] * self.size[points, None].astype(np.float64)
        covariance: Array = factor @ factor.transpose(0, 2, 1)
        return covariance

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays a map keeps."""
        return {f"places.{key}": getattr(self, key) for key in ("code", "least", "step", "factor", "size")}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of `tensors`."""
        return cls(*(tensors[f"places.{key}"] for key in ("code", "least", "step", "factor", "size")))


def _cholesky(covariance: Array) -> Array:
    """(N, 3, 3) factors; a covariance that is flat along a direction is given a thousandth of its size there."""
    scale = np.maximum(np.trace(covariance, axis1=1, axis2=2), 1e-60)
    return np.linalg.cholesky(covariance + 1e-6 * scale[:, None, None] * np.eye(3))


def gaps(values: NDArray[np.int32], starts: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Lists of rising whole numbers as the steps between them, a byte each; 255 is 255 more, and goes on.

    Args:
        values: (M,) all lists one after the other.
        starts: (F + 1,) where each begins, M last; the first step of a list is from 0.
    """
    before = np.concatenate([[0], values[:-1]])
    before[starts[:-1][starts[:-1] < len(values)]] = 0
    steps = values - before
    more = steps // 255
    found = np.full(len(values) + int(more.sum()), 255, np.uint8)
    found[np.cumsum(more + 1) - 1] = steps % 255
    return found


def lists(steps: NDArray[np.uint8], starts: NDArray[np.int32]) -> NDArray[np.int32]:
    """Inverse of `gaps`."""
    total = np.cumsum(steps, dtype=np.int64)[steps < 255]
    first = starts[:-1]
    before = np.where(first > 0, total[np.maximum(first, 1) - 1], 0) if len(total) else np.zeros(len(first), np.int64)
    found: NDArray[np.int32] = (total - np.repeat(before, np.diff(starts))).astype(np.int32)
    return found
