"""What speaks for an answer, in numbers of one kind: how many robust spreads above or below a usual one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from placecell.estimate import Estimate
from placecell.pose import Array

KINDS = ("distance", "angle", "inliers", "ratio", "features")
"""Predicted error of position and rotation, matches that agree, their share of all matches, nearness to the training
pictures in features."""
_WORST, _BEST = -12.0, 4.0


@dataclass(frozen=True)
class Scale:
    """What is usual, of the kinds that a map gives."""

    kinds: tuple[str, ...]
    middle: tuple[float, ...]
    spread: tuple[float, ...]

    def evidence(self, raw: Array) -> Array:
        """(N, K) of raw (N, 5): 0 is usual, more is better, in spreads; what is missing is as bad as can be."""
        chosen = raw[:, [KINDS.index(kind) for kind in self.kinds]]
        values = (chosen - self.middle) / self.spread
        bounded: Array = np.clip(np.where(np.isnan(values), _WORST, values), _WORST, _BEST)
        return bounded


def raw_evidence(estimates: Sequence[Estimate], nearness: Array | None = None) -> Array:
    """(N, 5), the order of `KINDS`.

    Minus the logarithms of the predicted errors, log(1 + inliers), log((1 + inliers) / (2 + matches)), `nearness`. The
    share is the mean under a flat prior (Laplace's rule of succession): 3 of 4 say less than 300 of 400.

    Args:
        estimates: with their covariances scaled already.
        nearness: (N,); None where the map has no features. NaN is what an answer does not tell.
    """
    rows = np.full((len(estimates), len(KINDS)), np.nan)
    for row, estimate in zip(rows, estimates, strict=True):
        if (sigma := estimate.sigma) is not None:
            row[:2] = -np.log(np.maximum(sigma, 1e-12))
        if estimate.inliers is not None:
            row[2] = np.log1p(estimate.inliers)
            if estimate.matches is not None:
                row[3] = row[2] - np.log(estimate.matches + 2.0)
    if nearness is not None:
        rows[:, 4] = nearness
    return rows


def fit_scale(raw: Array) -> Scale:
    """What is usual of answers to unseen pictures.

    Kinds that most lack, or that are all alike, say nothing, and one that repeats another says nothing more: of maps
    that ask equally many matches of each picture the share that agrees is their number.
    """
    kinds, middle, spread, told = [], [], [], list[Array]()
    for kind, column in zip(KINDS, raw.T, strict=True):
        known = column[np.isfinite(column)]
        if 2 * len(known) <= len(column):
            continue
        centre = float(np.median(known))
        # Half of the answers may be alike to the last digit; the standard deviation is a spread then, too.
        width = max(1.4826 * float(np.median(np.abs(known - centre))), 0.1 * float(known.std()))
        own = (column - centre) / max(width, 1e-300)
        if width > 1e-6 and not any(np.allclose(own, other, rtol=0.0, atol=1e-6, equal_nan=True) for other in told):
            kinds.append(kind)
            middle.append(centre)
            spread.append(width)
            told.append(own)
    return Scale(tuple(kinds), tuple(middle), tuple(spread))
