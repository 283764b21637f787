"""Answers whose honesty is known: what calibration is tried on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from placecell.calibration.fit import Answered
from placecell.estimate import Estimate
from placecell.pose import Array, Pose

BOAST = (3.0, 1.0, 0.5, 2.0, 8.0, 1.0)
"""By how much errors are larger than stated, axis by axis."""


def covariances(count: int, rng: np.random.Generator, *, mean: float = 0.01) -> list[Array]:
    """Of many sizes, their axes correlated."""
    found = []
    for _ in range(count):
        mixing = np.eye(6) + 0.2 * rng.normal(size=(6, 6))
        root = mixing * np.exp(rng.normal(np.log(mean), 0.7))
        found.append(root @ root.T)
    return found


def answers(
    count: int, *, boast: Sequence[float] = BOAST, seed: int = 0, mean: float = 0.01, outliers: float = 0.0
) -> list[Answered]:
    """Answers that state covariances; errors are drawn from those, stretched by `boast`, a share by 50 times more."""
    rng = np.random.default_rng(seed)
    found = []
    for index, stated in enumerate(covariances(count, rng, mean=mean)):
        error = np.multiply(boast, np.linalg.cholesky(stated) @ rng.normal(size=6))
        if rng.random() < outliers:
            error *= 50.0
        size = float(np.sqrt(np.trace(stated[3:, 3:])))
        pose = Pose.exp(rng.normal(size=6))
        inliers = int(rng.poisson(3.0 / size))
        found.append(Answered(Estimate(str(index), pose, stated, inliers=inliers), pose @ Pose.exp(error)))
    return found


def truths(items: Sequence[Answered]) -> dict[str, Pose]:
    """By name."""
    return {item.estimate.name: item.truth for item in items if item.truth is not None}


def lost(count: int, *, seed: int = 5, elsewhere: bool = False) -> list[Answered]:
    """Answers that are metres off, unsure and with few matches; of elsewhere without a truth."""
    rng = np.random.default_rng(seed)
    found = []
    for index, stated in enumerate(covariances(count, rng, mean=0.5)):
        pose = Pose.exp(rng.normal(size=6))
        truth = None if elsewhere else pose @ Pose.exp([0.3, 0, 0, 2.0, 0, 0])
        found.append(Answered(Estimate(f"lost {index}", pose, stated, inliers=int(rng.integers(4, 12))), truth))
    return found
