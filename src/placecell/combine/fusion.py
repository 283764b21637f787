"""Several poses of one picture to one pose and its covariance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from placecell.pose import Array, Pose, mean_pose, scatter

GATE = 22.457744484825323
"""Squared Mahalanobis distance above which two estimates contradict each other: the 99.9 % point of chi-squared with 6
degrees of freedom (a test compares it with scipy's)."""
_STEPS = 10
_STILL = 1e-10


class Fused(NamedTuple):
    """One pose made of several."""

    world_from_cam: Pose
    covariance: Array | None
    """(6, 6) right perturbation; None where nothing tells."""
    members: tuple[int, ...]
    """Which of them it is made of."""


def mixture(poses: Sequence[Pose], covariances: Sequence[Array | None]) -> Fused:
    """What members say that were trained alike and differ by chance (deep ensembles, Lakshminarayanan et al. 2017).

    The chordal mean; Σ = mean of Σ_i + Σ ξ_i ξ_iᵀ / (n - 1), ξ_i = log(mean⁻¹ pose_i). The paper divides by n, which
    for the three to five members that anybody trains is too little by a third to a fifth.

    Raises:
        ValueError: the poses look opposite ways and have no mean.
    """
    everyone = tuple(range(len(poses)))
    if len(poses) == 1:
        return Fused(poses[0], covariances[0], everyone)
    mean = mean_pose(poses)
    spread = scatter(poses, mean) * len(poses) / (len(poses) - 1)
    known = [covariance for covariance in covariances if covariance is not None]
    return Fused(mean, spread + np.mean(known, axis=0) if known else spread, everyone)


def information(poses: Sequence[Pose], covariances: Sequence[Array]) -> Fused | None:
    """What maps of different kinds say, whose errors have nothing to do with each other.

    The pose x of least Σ ξ_iᵀ Σ_i⁻¹ ξ_i, ξ_i = log(x⁻¹ pose_i), by Gauss-Newton; its covariance is (Σ Σ_i⁻¹)⁻¹. Only
    members take part that do not contradict each other: of each two, ξᵀ (Σ_i + Σ_j)⁻¹ ξ is below `GATE`. Of the largest
    such groups it is the surest. None where there are several members and no two agree.

    Raises:
        ValueError: a covariance is singular.
    """
    count = len(poses)
    agree = np.eye(count, dtype=bool)
    for i, j in combinations(range(count), 2):
        agree[i, j] = agree[j, i] = distance2(poses[i], covariances[i], poses[j], covariances[j]) < GATE
    for size in range(count, 0, -1):
        groups = [group for group in combinations(range(count), size) if agree[np.ix_(group, group)].all()]
        if groups and (size > 1 or count == 1):
            found = [_solved(group, poses, covariances) for group in groups]
            return min(found, key=lambda fused: np.linalg.slogdet(_sure(fused.covariance))[1])
    return None


def distance2(first: Pose, first_covariance: Array, second: Pose, second_covariance: Array) -> float:
    """Squared Mahalanobis distance of two estimates; the second's covariance is carried to the first's tangent space.

    Raises:
        ValueError: both are sure of a direction.
    """
    between = first.inv @ second
    error, turn = between.log(), between.adjoint()
    total = first_covariance + turn @ second_covariance @ turn.T
    white = _whitening(total) @ error
    return float(white @ white)


def _solved(group: Sequence[int], poses: Sequence[Pose], covariances: Sequence[Array]) -> Fused:
    pose = poses[min(group, key=lambda index: float(np.trace(covariances[index])))]
    total = np.eye(6)
    for _ in range(_STEPS):
        total, pull = np.zeros((6, 6)), np.zeros(6)
        for index in group:
            between = pose.inv @ poses[index]
            turn = between.adjoint()
            weight = _inverse(turn @ covariances[index] @ turn.T)
            total += weight
            pull += weight @ between.log()
        step = np.linalg.solve(total, pull)
        pose = pose @ Pose.exp(step)
        if float(np.abs(step).max()) < _STILL:
            break
    covariance = _inverse(total)
    return Fused(pose, (covariance + covariance.T) / 2, tuple(group))


def _inverse(matrix: Array) -> Array:
    factor = _whitening(matrix)
    found: Array = factor.T @ factor
    return found


def _whitening(covariance: Array) -> Array:
    """L⁻¹ of the Cholesky factor."""
    try:
        found: Array = np.linalg.inv(np.linalg.cholesky(covariance))
    except np.linalg.LinAlgError as failure:
        raise ValueError("a covariance is singular: it says that an error is impossible") from failure
    return found


def _sure(covariance: Array | None) -> Array:
    return np.eye(6) if covariance is None else covariance
