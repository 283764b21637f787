"""What the numbers of a head mean, in NumPy: for maps that run without torch. Imports none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placecell.pose import Array

LEAST_SCALE, MOST_SCALE = 0.01, 4.0
"""Of the inverse homogeneous coordinate (ACE)."""
UNIT = 0.5413
"""softplus of it is 1."""
SPREAD = 4
"""Which of the numbers of a cell is the log of how far off, in pixels, its projection is expected to be."""
NUMBERS = 5
"""Of a cell, before those that choose between the cluster centres."""


def points_of(numbers_NK: NDArray[np.float32], centres_M3: NDArray[np.float32], size: float) -> Array:
    """(N, 3) where cells lie in the frame of the anchor: c + o / w; see `head.Head`.

    Args:
        numbers_NK: o, the scale before its softplus, the log spread, and with clusters a logit for each.
        centres_M3: of the clusters.
        size: of the scene.
    """
    numbers = numbers_NK.astype(np.float64)
    scale = np.logaddexp(0.0, numbers[:, 3:4] + UNIT).clip(LEAST_SCALE, MOST_SCALE)
    middle: Array = centres_M3[:1].astype(np.float64)
    if numbers.shape[1] > NUMBERS:
        logits = numbers_NK[:, NUMBERS:]
        chosen = np.exp(logits - logits.max(axis=1, keepdims=True))
        middle = ((chosen @ centres_M3) / chosen.sum(axis=1, keepdims=True)).astype(np.float64)
    found: Array = middle + size * numbers[:, :3] / scale
    return found
