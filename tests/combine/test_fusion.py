"""Several poses of one picture made one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import least_squares
from scipy.stats import chi2

from placecell.combine.fusion import GATE, distance2, information, mixture
from placecell.pose import Array, Pose, pose_error


def some_pose(seed: int, size: float = 1.0) -> Pose:
    return Pose.exp(np.random.default_rng(seed).normal(size=6) * size)


def some_covariance(seed: int, size: float = 0.02) -> Array:
    factor = np.random.default_rng(seed).normal(size=(6, 6)) * size
    return factor @ factor.T + np.eye(6) * (0.3 * size) ** 2


class TestMixture:
    def test_of_draws_has_their_covariance_and_that_of_each(self) -> None:
        rng, centre, sigma = np.random.default_rng(0), some_pose(1), np.array([0.01, 0.02, 0.03, 0.1, 0.2, 0.05])
        totals = []
        for _ in range(400):
            poses = [centre @ Pose.exp(rng.normal(size=6) * sigma) for _ in range(3)]
            found = mixture(poses, [np.diag(sigma**2) / 4] * 3)
            assert found.covariance is not None
            totals.append(found.covariance)
        assert_allclose(np.sqrt(np.diag(np.mean(totals, axis=0))), sigma * np.sqrt(1.25), rtol=0.1)

    def test_of_one_is_that_one(self) -> None:
        pose, covariance = some_pose(0), some_covariance(0)
        found = mixture([pose], [covariance])
        assert found.world_from_cam == pose and found.covariance is covariance

    def test_does_without_what_members_expect(self) -> None:
        poses = [some_pose(0), some_pose(0) @ Pose.exp([0, 0, 0, 0.2, 0, 0])]
        found = mixture(poses, [None, None])
        assert found.covariance is not None
        assert_allclose(np.diag(found.covariance), [0, 0, 0, 0.02, 0, 0], atol=1e-12)  # (0.1² + 0.1²) / (2 - 1)

    def test_moves_with_the_world(self) -> None:
        world, poses = some_pose(9), [some_pose(i, 0.1) for i in range(4)]
        one, other = mixture(poses, [None] * 4), mixture([world @ pose for pose in poses], [None] * 4)
        assert pose_error(other.world_from_cam, world @ one.world_from_cam) == pytest.approx((0, 0), abs=1e-9)
        assert_allclose(one.covariance, other.covariance, atol=1e-10)  # type: ignore[arg-type]


class TestInformation:
    def test_gate_is_chi_squareds(self) -> None:
        assert pytest.approx(chi2.ppf(0.999, 6)) == GATE

    def test_is_the_least_squares_of_scipy(self) -> None:
        truth, covariances = some_pose(1), [some_covariance(seed, 0.002) for seed in range(3)]
        rng = np.random.default_rng(5)
        poses = [truth @ Pose.exp(rng.multivariate_normal(np.zeros(6), covariance)) for covariance in covariances]
        whites = [np.linalg.inv(np.linalg.cholesky(covariance)) for covariance in covariances]

        def residuals(xi: Array) -> Array:
            at = truth @ Pose.exp(xi)
            return np.concatenate([w @ (pose.inv @ at).log() for w, pose in zip(whites, poses, strict=True)])

        expected = truth @ Pose.exp(least_squares(residuals, np.zeros(6), xtol=1e-14, ftol=1e-14).x)
        found = information(poses, covariances)
        assert found is not None and found.covariance is not None
        assert found.members == (0, 1, 2)
        assert pose_error(found.world_from_cam, expected) == pytest.approx((0, 0), abs=1e-3)
        for covariance in covariances:  # it is surer than any of them, in every direction
            assert np.linalg.eigvalsh(covariance - found.covariance).min() > -1e-6

    def test_is_as_sure_as_it_says(self) -> None:
        rng, truth, squares = np.random.default_rng(2), some_pose(3), []
        covariances = [some_covariance(seed, 0.01) for seed in (7, 8)]
        for _ in range(300):
            poses = [truth @ Pose.exp(-rng.multivariate_normal(np.zeros(6), c)) for c in covariances]
            found = information(poses, covariances)
            if found is None or found.covariance is None:
                continue
            error = (found.world_from_cam.inv @ truth).log()
            squares.append(error @ np.linalg.solve(found.covariance, error))
        assert len(squares) > 290
        assert np.mean(squares) == pytest.approx(6, rel=0.1)

    def test_leaves_out_who_contradicts(self) -> None:
        truth, covariance = some_pose(1), np.eye(6) * 1e-4
        wrong = truth @ Pose.exp([0, 0, 0, 0.5, 0, 0])
        found = information([wrong, truth, truth @ Pose.exp([0.001] * 6)], [covariance] * 3)
        assert found is not None
        assert found.members == (1, 2)

    def test_of_two_who_contradict_is_nothing(self) -> None:
        truth, covariance = some_pose(1), np.eye(6) * 1e-4
        assert information([truth, truth @ Pose.exp([0, 0, 0, 0.5, 0, 0])], [covariance] * 2) is None
        alone = information([truth], [covariance])
        assert alone is not None and alone.world_from_cam == truth

    def test_of_groups_as_large_takes_the_surest(self) -> None:
        truth = some_pose(1)
        there = truth @ Pose.exp([0, 0, 0, 2.0, 0, 0])
        found = information([truth, truth, there, there], [np.eye(6) * 1e-2] * 2 + [np.eye(6) * 1e-4] * 2)
        assert found is not None
        assert found.members == (2, 3)

    def test_distance_does_not_mind_the_order(self) -> None:
        first, second = some_pose(1), some_pose(1) @ Pose.exp([0.3, -0.2, 0.1, 0.2, 0.1, 0.4])
        one, other = some_covariance(1), some_covariance(2)
        assert distance2(first, one, second, other) == pytest.approx(distance2(second, other, first, one), rel=1e-6)

    def test_singular_covariances_are_told(self) -> None:
        with pytest.raises(ValueError, match="singular"):
            information([some_pose(0), some_pose(0)], [np.zeros((6, 6))] * 2)
