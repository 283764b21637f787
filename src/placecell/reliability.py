"""Whether stated uncertainty means what it says: answers and truths in, figures out; nothing here runs a model.

Predicted error is `Estimate.sigma`: the square root of the trace of the covariance's position block, and of its
rotation block. Frames without an answer have no error to rank; they are left out here and counted by `metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtri

from placecell.estimate import Estimate
from placecell.metrics import Threshold, nees
from placecell.pose import Array, Pose, pose_error

LEVELS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Probabilities at which calibration is judged: 0.05 to 0.95."""
_BINS = 10


class Sparsification(NamedTuple):
    """Mean error of the frames that are left when a growing share, the least sure first, is taken away."""

    removed: Array
    """(N,) share taken away, 0 to 1 - 1/N."""
    by_sigma: Array
    """(N,) mean error of the rest, by what was predicted."""
    oracle: Array
    """(N,) the same when the largest errors go first: no order does better."""


class Bin(NamedTuple):
    """Answers of about one confidence."""

    confidence: float
    """Mean of what was stated."""
    hits: float
    """Share of them below the threshold."""
    frames: int


@dataclass(frozen=True)
class Reliability:
    """The figures of a set of answers; None where the answers do not carry what a figure is about."""

    frames: int
    """Answers with a usable covariance."""
    singular: int
    """Answers whose covariance cannot be inverted."""
    rank_distance: float | None
    """Spearman's correlation of predicted and true error."""
    rank_angle: float | None
    ause_distance: float | None
    """`ause`: 0 is the oracle, 1 is random order."""
    ause_angle: float | None
    nees_median: float | None
    """5.35 when honest."""
    calibration_error: float | None
    confidence_error: float | None
    covered_distance: float | None
    """Share of the truths within the radius that was stated, over answers with radii."""
    covered_angle: float | None


def reliability(
    estimates: Sequence[Estimate], truths: Mapping[str, Pose], threshold: Threshold | None = None
) -> Reliability:
    """Judge what answers say of their own errors.

    Args:
        truths: `world_from_cam` by frame name; answers to other frames are left out.
        threshold: what confidence is about; None judges no confidence.
    """
    answered = [estimate for estimate in estimates if estimate.world_from_cam is not None and estimate.name in truths]
    errors = {estimate.name: pose_error(estimate.world_from_cam, truths[estimate.name]) for estimate in answered}
    stated = [(estimate, own) for estimate in answered if (own := estimate.sigma) is not None]
    error = np.array([errors[estimate.name] for estimate, _ in stated], np.float64).reshape(-1, 2)
    sigma = np.array([own for _, own in stated], np.float64).reshape(-1, 2)
    squared = np.array([nees(estimate, truths[estimate.name]) for estimate, _ in stated])
    some = len(stated) > 0
    confident = [estimate for estimate in answered if estimate.confidence is not None]
    judged = threshold is not None and confident
    covered = [
        (errors[e.name].distance <= e.radii.distance, errors[e.name].angle_deg <= e.radii.angle_deg)
        for e in answered
        if e.radii is not None
    ]
    return Reliability(
        frames=len(stated),
        singular=sum(estimate.covariance is not None for estimate in answered) - len(stated),
        rank_distance=rank_correlation(sigma[:, 0], error[:, 0]) if some else None,
        rank_angle=rank_correlation(sigma[:, 1], error[:, 1]) if some else None,
        ause_distance=ause(error[:, 0], sigma[:, 0]) if some else None,
        ause_angle=ause(error[:, 1], sigma[:, 1]) if some else None,
        nees_median=float(np.median(squared)) if some else None,
        calibration_error=calibration_error(squared) if some else None,
        confidence_error=confidence_error(*confidences(confident, truths, threshold)) if judged and threshold else None,
        covered_distance=float(np.mean([near for near, _ in covered])) if covered else None,
        covered_angle=float(np.mean([turned for _, turned in covered])) if covered else None,
    )


def is_hit(estimate: Estimate, truth: Pose | None, threshold: Threshold) -> bool:
    """Whether an answer is below the threshold, in distance and angle, both strictly; never where there is no truth."""
    if truth is None:
        return False
    error = pose_error(estimate.world_from_cam, truth)
    return error.distance < threshold.distance_m and error.angle_deg < threshold.angle_deg


def confidences(estimates: Sequence[Estimate], truths: Mapping[str, Pose], threshold: Threshold) -> tuple[Array, Array]:
    """(N,) the confidences that answers state and (N,) 1 where they are below the threshold, else 0."""
    told = [estimate for estimate in estimates if estimate.confidence is not None]
    stated = np.array([estimate.confidence for estimate in told], dtype=np.float64)
    hits = np.array([is_hit(estimate, truths.get(estimate.name), threshold) for estimate in told], dtype=np.float64)
    return stated, hits


def rank_correlation(predicted: ArrayLike, true: ArrayLike) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where one side is all alike, as it orders nothing."""
    ranks = [_ranks(np.asarray(values, np.float64)) for values in (predicted, true)]
    ranks = [rank - rank.mean() for rank in ranks]
    norm = float(np.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1])))
    return float(ranks[0] @ ranks[1]) / norm if norm > 0 else 0.0


def sparsification(errors: ArrayLike, sigma: ArrayLike) -> Sparsification:
    """The curves of Ilg et al. 2018 (sec. 4.1) for errors and what was predicted of them, both (N,), N >= 1.

    Where predictions tie, the order among them is not known: each counts with the mean error of those alike.
    """
    error, predicted = np.asarray(errors, np.float64), np.asarray(sigma, np.float64)
    _, group, count = np.unique(predicted, return_inverse=True, return_counts=True)
    expected = (np.bincount(group, error) / count)[group]
    kept = np.arange(1, len(error) + 1)
    by_sigma = np.cumsum(expected[np.argsort(predicted, kind="stable")]) / kept
    oracle = np.cumsum(np.sort(error)) / kept
    return Sparsification(1.0 - kept[::-1] / len(error), by_sigma[::-1], oracle[::-1])


def ause(errors: ArrayLike, sigma: ArrayLike) -> float:
    """Area under the sparsification error, normalised: Σ(by_sigma - oracle) / Σ(mean - oracle).

    0 when frames are ordered as the oracle does, 1 for random order (whose expected curve is the mean error, flat),
    above 1 when worse than that; 0 when all errors are alike.
    """
    curve = sparsification(errors, sigma)
    room = float(np.sum(curve.oracle[0] - curve.oracle))
    # A sum of roundings is no room.
    return float(np.sum(curve.by_sigma - curve.oracle)) / room if room > 1e-12 * len(curve.oracle) else 0.0


def within_quantiles(squared: ArrayLike) -> Array:
    """(19,) shares of NEES values below the chi-squared quantiles (6 degrees of freedom) of `LEVELS`: the levels
    themselves when covariances are honest, less when they are overconfident."""
    values = np.asarray(squared, np.float64)
    return np.array([np.mean(values < chdtri(6, 1.0 - level)) for level in LEVELS])


def calibration_error(squared: ArrayLike) -> float:
    """Expected calibration error of covariances by their NEES: mean |share - level| over `LEVELS`, 0 to 0.5."""
    return float(np.abs(within_quantiles(squared) - LEVELS).mean())


def confidence_bins(confidence: ArrayLike, hits: ArrayLike) -> list[Bin]:
    """Answers in ten bins of equal width by their confidence, the empty ones left out (Guo et al. 2017)."""
    stated, right = np.asarray(confidence, np.float64), np.asarray(hits, np.float64)
    place = np.minimum((stated * _BINS).astype(int), _BINS - 1)
    mine = [place == index for index in range(_BINS)]
    return [Bin(float(stated[m].mean()), float(right[m].mean()), int(m.sum())) for m in mine if m.any()]


def confidence_error(confidence: ArrayLike, hits: ArrayLike) -> float:
    """Expected calibration error of confidences: |confidence - hits| of `confidence_bins`, weighted by their frames."""
    bins = confidence_bins(confidence, hits)
    total = sum(part.frames for part in bins)
    return sum(part.frames * abs(part.confidence - part.hits) for part in bins) / total


def auroc(positive: ArrayLike, negative: ArrayLike) -> float:
    """Probability that a positive scores above a negative, ties counting half: the area under the ROC curve.

    Raises:
        ValueError: one of the two is empty, or a score is not a number.
    """
    above, below = np.asarray(positive, np.float64), np.asarray(negative, np.float64)
    if not (len(above) and len(below)) or np.isnan(above).any() or np.isnan(below).any():
        raise ValueError(f"scores of {len(above)} positives and {len(below)} negatives, some of each are needed")
    ranks = _ranks(np.concatenate([above, below]))[: len(above)]
    return float((ranks.sum() - len(above) * (len(above) + 1) / 2) / (len(above) * len(below)))


def _ranks(values: Array) -> Array:
    from scipy.stats import rankdata  # half a second, which a service that starts has no use for

    return np.asarray(rankdata(values), np.float64)
