"""Radii that hold with a stated probability, whatever the errors are distributed like: split conformal prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from placecell.estimate import Radii
from placecell.pose import PoseError

_FEWEST = 3
"""Sequences that make a range."""


@dataclass(frozen=True)
class Conformal:
    """Radii are an answer's predicted errors times these quantiles (locally weighted: Lei et al. 2018, sec. 5.2)."""

    coverage: float
    distance: float
    """Quantile of error / predicted error."""
    angle: float

    def radii(self, sigma: PoseError | None) -> Radii | None:
        """The radii of an answer; None without a prediction."""
        if sigma is None:
            return None
        return Radii(self.coverage, self.distance * sigma.distance, self.angle * sigma.angle_deg)


def fit_conformal(errors: ArrayLike, sigma: ArrayLike, coverage: float) -> Conformal:
    """Quantiles of errors over predicted errors, both (N, 2) distance and angle, of answers to unseen pictures.

    The coverage of each radius is at least `coverage` on average over draws of the calibration frames, if what is asked
    later is like them. Neighbours in a video are alike, so it varies more than for as many independent pictures.

    Raises:
        ValueError: too few frames for this coverage.
    """
    scores = np.asarray(errors, np.float64) / np.asarray(sigma, np.float64)
    distance, angle = (quantile(column, coverage) for column in scores.T)
    if not (math.isfinite(distance) and math.isfinite(angle)):
        raise ValueError(f"{len(scores)} frames bound no radius of {100 * coverage:g} % coverage")
    return Conformal(coverage, distance, angle)


@dataclass(frozen=True)
class Range:
    """Of shares."""

    least: float
    most: float


@dataclass(frozen=True)
class LeftOut:
    """For which shares of one sequence the radii hold that the others make: how far a promise about single pictures
    drawn at random goes for pictures that come as neighbours."""

    sequences: int
    distance: Range
    angle: Range


def left_out(errors: ArrayLike, sigma: ArrayLike, sequences: Sequence[str], coverage: float) -> LeftOut | None:
    """Radii fitted without each sequence in turn, and asked of it; None of fewer than three sequences.

    Args:
        errors: (N, 2) distance and angle; `sigma` what was predicted of them.
        sequences: (N,) which each picture is of.
    """
    scores = np.asarray(errors, np.float64) / np.asarray(sigma, np.float64)
    names = np.asarray(sequences)
    shares = []
    for name in dict.fromkeys(sequences):
        own, rest = scores[names == name], scores[names != name]
        shares.append([np.mean(own[:, k] <= quantile(rest[:, k], coverage)) for k in range(2)])
    if len(shares) < _FEWEST:
        return None
    distance, angle = (Range(float(min(column)), float(max(column))) for column in zip(*shares, strict=True))
    return LeftOut(len(shares), distance, angle)


def quantile(scores: ArrayLike, coverage: float) -> float:
    """The ⌈(n + 1) coverage⌉-th smallest of n scores: a new one is at most that with this probability or more.

    inf where that is beyond the largest (Vovk et al. 2005; Lei et al. 2018, eq. 2).
    """
    ordered = np.sort(np.asarray(scores, np.float64))
    rank = math.ceil((len(ordered) + 1) * coverage - 1e-9)  # 20 * 0.95 is 19, and a bit
    return float(ordered[rank - 1]) if rank <= len(ordered) else math.inf
