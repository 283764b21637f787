"""What the leaves of a tree remember: the few places where most of their pixels look."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from placecell.parallel import in_parallel

Indices = NDArray[np.intp]
Floats = NDArray[np.float32]

_SHIFTS = 10
"""Steps of mean shift: more move nothing."""
_REACH = 2.0
"""Samples so many bandwidths around a mode are its own."""
_STEPS = 65_535
_UPPER = np.triu_indices(3)
_SYMMETRIC = np.array([0, 1, 2, 1, 3, 4, 2, 4, 5])
_PAIRS = 1_000_000
"""Pairs of samples weighed at a time."""


@dataclass(frozen=True)
class Remembering:
    """How leaves are summed up."""

    bandwidth: float
    """Of the Gaussian kernel of mean shift, in the unit of the scene."""
    modes: int
    """Modes a leaf, at most."""
    samples: int = 500
    """Samples of a leaf, at most, that its modes are found by."""


class Remembered(NamedTuple):
    """Modes of M leaves, up to K each."""

    points: Floats
    """(M, K, 3) in the frame of the map."""
    weight: Floats
    """(M, K) share of a leaf's samples, the largest first; 0 where there is no mode."""
    covariance: Floats
    """(M, K, 3, 3), axes of the map: of the kernel's density, so at least the square of the bandwidth an axis."""


@dataclass(frozen=True, eq=False)
class Leaves:
    """The modes of L leaves, those of leaf 0 first, the strongest of a leaf first; kept small."""

    border: NDArray[np.int32]
    """(L + 1,) where each leaf's modes begin."""
    place: NDArray[np.uint16]
    """(S, 3) steps of `step` from `corner`."""
    weight: NDArray[np.uint8]
    """(S,) share of the leaf's samples, in 255ths."""
    spread: NDArray[np.float16]
    """(S, 6) upper triangle of the covariance of a mode's samples, by the square of the bandwidth."""
    corner: Floats
    """(3,) in the frame of the map."""
    step: Floats
    """(1,) unit of the scene."""

    def modes(self, leaf: Indices, count: int, bandwidth: float) -> Remembered:
        """The strongest `count` modes of each of M leaves."""
        index = self.border[leaf][:, None] + np.arange(count)
        there = index < self.border[leaf + 1][:, None]
        index = np.where(there, index, 0)
        spread = self.spread[index].astype(np.float32)[..., _SYMMETRIC].reshape(*index.shape, 3, 3)
        return Remembered(
            self.corner + self.step * self.place[index],
            self.weight[index] * (there / np.float32(255)),
            np.float32(bandwidth**2) * (spread + np.eye(3, dtype=np.float32)),
        )


class _Batch(NamedTuple):
    """Samples of leaves of about one size."""

    leaf: Indices
    points: Floats
    """(L, n, 3) relative to the leaf's mean."""
    there: NDArray[np.bool_]
    """(L, n) false where a leaf has fewer."""
    middle: Floats
    """(L, 3)."""


def remember(points: Floats, border: Indices, how: Remembering, *, threads: int = 1) -> Leaves:
    """Modes of leaves whose samples (M, 3) lie one leaf after the other, in random order within each."""
    batches = list(_batches(points, border, how.samples))
    found = list(in_parallel(lambda batch: _modes(batch, how), batches, threads))
    leaf = np.concatenate([np.repeat(batch.leaf, how.modes) for batch in batches])
    place, weight, covariance = (np.concatenate(part) for part in zip(*found, strict=True))
    steps = np.floor(255 * weight + 1e-3)  # down, so that those of a leaf sum to at most 1
    steps[:: how.modes] = np.maximum(steps[:: how.modes], 1)  # no leaf without a mode
    kept = np.flatnonzero(steps > 0)
    kept = kept[np.lexsort((-weight[kept], leaf[kept]))]
    ends = np.searchsorted(leaf[kept], np.arange(len(border)))
    corner = place[kept].min(axis=0)
    step = np.maximum((place[kept] - corner).max(), np.float32(1e-6)) / np.float32(_STEPS)
    return Leaves(
        border=ends.astype(np.int32),
        place=np.round((place[kept] - corner) / step).astype(np.uint16),
        weight=steps[kept].astype(np.uint8),
        spread=(covariance[kept] / how.bandwidth**2)[:, *_UPPER].astype(np.float16),
        corner=corner,
        step=step[None],
    )


def _batches(points: Floats, border: Indices, most: int) -> Iterator[_Batch]:
    """The leaves by size, padded to a power of two, few enough at a time."""
    counts = np.minimum(np.diff(border), most)
    size = np.minimum(2 ** np.ceil(np.log2(np.maximum(counts, 1))).astype(np.intp), most)
    for width in np.unique(size):
        alike = np.flatnonzero(size == width)
        for leaf in np.array_split(alike, -(-len(alike) * width**2 // _PAIRS)):
            there = np.arange(width) < counts[leaf, None]
            index = np.where(there, border[leaf, None] + np.arange(width), border[leaf, None])
            found = points[index]
            middle = (found * there[..., None]).sum(axis=1) / counts[leaf, None]
            yield _Batch(leaf, found - middle[:, None], there, middle.astype(np.float32))


def _modes(batch: _Batch, how: Remembering) -> tuple[Floats, Floats, Floats]:
    """(L K, 3) modes, (L K,) their weight, 0 where there is none, and (L K, 3, 3) covariance.

    Mean shift (Comaniciu & Meer 2002) from the sample with most others around it, K times over: the samples near a
    mode found are no beginnings of others.
    """
    points, there = batch.points, batch.there
    count = there.sum(axis=1)
    squares = (points**2).sum(axis=-1)
    gram = points @ points.transpose(0, 2, 1)
    crowd = _kernel(np.maximum(squares[:, :, None] + squares[:, None] - 2 * gram, 0), how.bandwidth)
    crowd = np.where(there, (crowd * there[:, None]).sum(axis=-1), -1.0).astype(np.float32)
    places, weights, covariances = [], [], []
    for _ in range(how.modes):
        mode = points[np.arange(len(points)), crowd.argmax(axis=1)]
        for _ in range(_SHIFTS):
            pull = _kernel(((points - mode[:, None]) ** 2).sum(axis=-1), how.bandwidth) * there
            mode = np.einsum("ln,lni->li", pull, points) / pull.sum(axis=1)[:, None]
        near = there & (((points - mode[:, None]) ** 2).sum(axis=-1) < (_REACH * how.bandwidth) ** 2)
        own = near & (crowd > 0)
        share = own.sum(axis=1)
        away = (points - mode[:, None]) * own[..., None]
        places.append(mode + batch.middle)
        weights.append(share / count)
        covariances.append(away.transpose(0, 2, 1) @ away / np.maximum(share, 1)[:, None, None])
        crowd = np.where(near, np.float32(-1), crowd)
    stacked = (np.stack(part, axis=1).astype(np.float32) for part in (places, weights, covariances))
    place, weight, covariance = stacked
    return place.reshape(-1, 3), weight.reshape(-1), covariance.reshape(-1, 3, 3)


def _kernel(squares: Floats, bandwidth: float) -> Floats:
    found: Floats = np.exp(squares * np.float32(-0.5 / bandwidth**2))
    return found
