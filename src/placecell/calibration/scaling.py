"""Covariances made as large, and as long in each direction, as the errors of answers to unseen pictures are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri

from placecell.estimate import is_definite
from placecell.pose import Array
from placecell.reliability import LEVELS, calibration_error

_AXES = 6
_OF_MEDIAN = 1.482602218505602
"""Standard deviation of a normal variable over the median of its absolute value."""
_THINNEST = 1e-3
"""An axis is not scaled below this share of the median axis, however well it did by chance."""


@dataclass(frozen=True)
class Scaling:
    """Σ becomes D Σ D, D the diagonal of `factors`."""

    factors: tuple[float, ...]
    """(6,) rx ry rz tx ty tz, the temperature included."""

    def apply(self, covariance: Array | None) -> Array | None:
        """The scaled covariance; None where there is none, or it is singular and so says nothing."""
        if covariance is None or not is_definite(covariance):
            return None
        scaled = covariance * np.outer(self.factors, self.factors)
        return scaled if is_definite(scaled) else None


def fit_scaling(residuals: Array, covariances: Sequence[Array | None]) -> Scaling:
    """The scaling by which answers explain their own errors.

    Each axis gets the robust spread of its whitened residuals, 1.48 median|ξ_j / σ_j|. Then one temperature, common to
    all axes, is chosen so that the NEES of the whole follows chi-squared as nearly as it can: of those that put one of
    `LEVELS` right, the one of the least expected calibration error. Both are deaf to a few answers that are far off.

    Args:
        residuals: (N, 6) ξ with truth = answer · exp(ξ).
        covariances: what was stated of each; missing and singular ones teach nothing.
    """
    usable = [value for value in covariances if value is not None and is_definite(value)]
    kept = np.array([value is not None and is_definite(value) for value in covariances])
    stated, error = np.array(usable), residuals[kept]
    factors = _spread(error / np.sqrt(np.diagonal(stated, axis1=1, axis2=2)))
    white = np.linalg.solve(np.linalg.cholesky(stated), (error / factors)[..., None])[..., 0]
    factors = factors * _temperature(np.square(white).sum(axis=1))
    return Scaling(tuple(factors.tolist()))


def typical(residuals: Array, covariances: Sequence[Array | None]) -> tuple[float, ...] | None:
    """(6,) standard deviations that stand for the covariances of a map that states none: (robust) those of its errors.

    None where most answers state one that can be inverted.
    """
    usable = sum(value is not None and is_definite(value) for value in covariances)
    return None if 2 * usable > len(residuals) else tuple(_spread(residuals).tolist())


def _spread(values: Array) -> Array:
    """(6,) robust standard deviations of the columns about zero."""
    found = _OF_MEDIAN * np.median(np.abs(values), axis=0)
    middle = float(np.median(found))
    found = np.maximum(found, _THINNEST * middle)
    return np.asarray(np.where(found > 0, found, 1.0), dtype=np.float64)


def _temperature(squared: Array) -> float:
    """By how much standard deviations grow so that squared Mahalanobis distances follow chi-squared."""
    candidates = np.quantile(squared, LEVELS) / chdtri(_AXES, 1.0 - np.asarray(LEVELS))
    candidates = np.sort(candidates[candidates > 0])[::-1]  # of two alike the larger, which is the less sure
    if not len(candidates):
        return 1.0
    return float(np.sqrt(min(candidates, key=lambda factor: calibration_error(squared / factor))))
