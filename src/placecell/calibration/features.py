"""How near a picture is to the training pictures in the vectors a map sees them by, for maps that have such."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from placecell.pose import Array

Vectors = NDArray[np.float32]
MOST = 1000
"""Training pictures that are kept, spread evenly."""
_NEIGHBOURS = 3


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Vectors of training pictures, and how far apart neighbours among them are."""

    vectors: Vectors
    """(F, D), F > 3."""
    usual: float
    """Median distance of a training picture to its third nearest of another sequence: the unit of nearness, which makes
    it comparable between maps."""

    def nearness(self, vectors: Vectors) -> Array:
        """(N,) minus the logarithm of the distance to the third nearest training picture; NaN for a blind picture."""
        far = _third_nearest(vectors, self.vectors, np.ones((len(vectors), len(self.vectors)), bool))
        found: Array = -np.log(np.maximum(far / self.usual, 1e-6))
        return found


def neighbourhood(vectors: Vectors, groups: NDArray[np.intp]) -> Neighbourhood | None:
    """Of the vectors (F, D) of training pictures and the sequence of each; None where they tell nothing.

    With one sequence only, its every second part counts as another: neighbours in a video are near-duplicates.
    """
    seen = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    vectors, groups = vectors[seen], groups[seen]
    if len(vectors) <= _NEIGHBOURS:
        return None
    if len(np.unique(groups)) == 1:
        groups = np.arange(len(groups)) * 8 // len(groups) % 2
    far = _third_nearest(vectors, vectors, np.asarray(groups[:, None] != groups[None], dtype=bool))
    usual = float(np.median(far[np.isfinite(far)])) if np.isfinite(far).any() else 0.0
    return Neighbourhood(vectors, usual) if usual > 0 else None


def _third_nearest(asked: Vectors, known: Vectors, allowed: NDArray[np.bool_]) -> Array:
    """(N,) distances, over the known that are allowed; inf where those are fewer than three, NaN of a blind picture."""
    blind = np.array([not np.isfinite(row).all() for row in asked], dtype=bool)
    a, b = np.where(blind[:, None], 0.0, asked.astype(np.float64)), known.astype(np.float64)
    squared = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2.0 * a @ b.T
    squared = np.where(allowed, np.maximum(squared, 0.0), np.inf)
    nearest = np.partition(squared, _NEIGHBOURS - 1, axis=1)[:, _NEIGHBOURS - 1]
    return np.sqrt(np.where(blind, np.nan, nearest))
