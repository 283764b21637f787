"""Predicted errors that grow with what speaks against an answer: few matches, or a picture unlike the training ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from placecell.calibration.evidence import KINDS, Scale, fit_scale, raw_evidence
from placecell.estimate import Estimate
from placecell.pose import Array

_FREEDOM = 4.0
"""Of the Student distribution that errors are fitted by, which is deaf to a few that are far off."""
_POWERS = (1.0, 2.0)
"""What a network learned to expect is drawn towards the middle, so differences may be stretched. They are not pressed
together: a solver's sigma is in proportion, and only damage beyond what it knows would say otherwise."""
_POWER_PRIOR, _WEIGHT_PRIOR = 0.25, 0.5
"""Deviations about 1 and 0: with few answers, or none that differ, predicted errors stay as they are stated."""
_LEAST, _MOST = -3.0, 5.0
"""Bounds of the logarithm by which a predicted error is changed."""


@dataclass(frozen=True)
class Widening:
    """σ of rotation and of position, each times (σ / usual)^(power - 1) exp(weights · strangeness).

    What a map states of its error it learned from pictures of the place as they were, or derives from its matches as if
    nothing else could be wrong. Strangeness (`Scale`, turned round) knows better: few matches, far from the training
    pictures.
    """

    scale: Scale
    """Of inliers, ratio and features, as far as the map tells them."""
    usual: tuple[float, ...]
    """(2,) median σ of position and of rotation (degrees)."""
    power: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    """(2, K), none below zero."""

    def apply(self, estimates: Sequence[Estimate], nearness: Array | None = None) -> list[Estimate]:
        """The estimates with their covariances widened, or narrowed where all speaks for the answer."""
        sigma = np.array([(np.nan, np.nan) if e.sigma is None else e.sigma for e in estimates], np.float64)
        logs = self._logs(sigma.reshape(-1, 2), strangeness(self.scale, estimates, nearness))
        return [
            estimate if estimate.covariance is None or not np.isfinite(row).all() else _stretched(estimate, np.exp(row))
            for estimate, row in zip(estimates, logs, strict=True)
        ]

    def _logs(self, sigma: Array, strange: Array) -> Array:
        """(N, 2) logarithms of what σ is multiplied by."""
        relative = np.log(np.maximum(sigma, 1e-300) / np.array(self.usual))
        power, weights = np.array(self.power), np.array(self.weights)
        found: Array = np.clip((power - 1.0) * relative + strange @ weights.T, _LEAST, _MOST)
        return found


def strangeness(scale: Scale, estimates: Sequence[Estimate], nearness: Array | None) -> Array:
    """(N, K) how far below usual each kind of evidence is, in spreads."""
    return -scale.evidence(raw_evidence(estimates, nearness))


def fit_widening(estimates: Sequence[Estimate], nearness: Array, errors: Array, *, taken: int) -> Widening:
    """Learn what errors grow with, from answers that state covariances.

    Each of position and rotation: log-likelihood of errors under Student's t with the scale a σ^power exp(weights ·
    strangeness), and a normal prior about power 1 and weights 0. The scale a is `fit_scaling`'s to find.

    Args:
        nearness: (N,).
        errors: (N, 2) position and angle in degrees, in the units of `Estimate.sigma`.
        taken: the first so many are of pictures as they were taken, which tell what is usual.
    """
    raw = raw_evidence(estimates[:taken], nearness[:taken])
    raw[:, [KINDS.index(kind) for kind in ("distance", "angle")]] = np.nan  # what sigma says itself
    scale = fit_scale(raw)
    strange = strangeness(scale, estimates, nearness)
    sigma = np.array([e.sigma for e in estimates if e.sigma is not None], np.float64)
    usual = np.median(sigma[:taken], axis=0)
    fitted = [_fitted(errors[:, k], sigma[:, k], usual[k], strange) for k in range(2)]
    power, weights = zip(*fitted, strict=True)
    return Widening(scale, tuple(usual.tolist()), power, weights)


def _fitted(errors: Array, sigma: Array, usual: float, strange: Array) -> tuple[float, tuple[float, ...]]:
    """Power and weights of one of the two."""
    from scipy.optimize import minimize  # as in `confidence`

    relative = np.log(sigma / usual)
    # An answer that is exactly right would draw the scale to zero.
    log_error = np.log(np.maximum(errors, 1e-3 * max(float(np.median(errors)), 1e-12)) / usual)

    def loss(numbers: Array) -> float:
        log_scale = numbers[0] + numbers[1] * relative + strange @ numbers[2:]
        tails = np.logaddexp(0.0, 2.0 * (log_error - log_scale) + np.log(3.0 / _FREEDOM))
        prior = ((numbers[1] - 1.0) / _POWER_PRIOR) ** 2 + np.square(numbers[2:] / _WEIGHT_PRIOR).sum()
        return float((3.0 * log_scale + (_FREEDOM + 3.0) / 2.0 * tails).sum() + prior / 2.0)

    count = strange.shape[1]
    start = np.array([float(np.median(log_error - relative)), 1.0] + [0.05] * count)
    bounds = [(-50.0, 50.0), _POWERS] + [(0.0, 2.0)] * count
    found = minimize(loss, start, method="L-BFGS-B", bounds=bounds).x
    return float(found[1]), tuple(float(weight) for weight in found[2:])


def _stretched(estimate: Estimate, factors: Array) -> Estimate:
    """Position and rotation of the covariance by their factors."""
    if estimate.covariance is None:
        return estimate
    distance, angle = factors
    along = np.array([angle] * 3 + [distance] * 3)
    return replace(estimate, covariance=estimate.covariance * np.outer(along, along))
