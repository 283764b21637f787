"""Laws, oracles and traps of `placecell.rigid`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from placecell.align import umeyama
from placecell.pose import Array, Pose, pose_error
from placecell.rigid import (
    Rigid,
    kabsch,
    refine_rigid,
    rigid_covariance,
    same_triangles,
    solve_rigid,
    squared_distances,
)

WORLD_FROM_CAM = Pose.exp([0.9, -1.3, 0.4, 3.0, -2.0, 7.5])
SEEDS = st.integers(0, 10_000)


class Matches(NamedTuple):
    points_world: Array
    points_cam: Array
    true: NDArray[np.bool_]
    """(N,) False for the outliers."""


def matches(count: int, *, outliers: int = 0, sigma: float = 0.0, seed: int = 0) -> Matches:
    """Points in front of the camera; the last `outliers` lie anywhere in the world."""
    rng = np.random.default_rng(seed)
    cam = rng.uniform([-2.0, -1.5, 1.0], [2.0, 1.5, 5.0], (count, 3))
    world = WORLD_FROM_CAM.apply(cam) + sigma * rng.standard_normal((count, 3))
    true = np.arange(count) < count - outliers
    world[~true] = WORLD_FROM_CAM.translation + rng.uniform(-5, 5, (outliers, 3))
    return Matches(world, cam, true)


def posed(found: Rigid) -> tuple[Pose, Array]:
    """Pose and covariance of an answer that has both."""
    assert found.world_from_cam is not None and found.covariance is not None
    return found.world_from_cam, found.covariance


def cost(points_world: Array, points_cam: Array, weight: Array, pose: Pose) -> float:
    return float((weight * ((points_world - pose.apply(points_cam)) ** 2).sum(axis=1)).sum())


class TestKabsch:
    @given(SEEDS, st.integers(3, 30))
    def test_it_finds_exact_motions(self, seed: int, count: int) -> None:
        pose = Pose.exp(np.random.default_rng(seed).normal(size=6) * 2)
        cam = np.random.default_rng(seed + 1).normal(size=(count, 3))
        rotation, translation = kabsch(pose.apply(cam), cam)
        np.testing.assert_allclose(rotation, pose.rotation, atol=1e-6)
        np.testing.assert_allclose(translation, pose.translation, atol=1e-6)

    @given(SEEDS)
    @settings(max_examples=15)
    def test_it_is_scipy_s_alignment_with_weights(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        world, cam, weight = rng.normal(size=(12, 3)), rng.normal(size=(12, 3)), rng.uniform(0.1, 2.0, 12)
        rotation, translation = kabsch(world, cam, weight)
        mean_world, mean_cam = (np.average(points, axis=0, weights=weight) for points in (world, cam))
        oracle = Rotation.align_vectors(world - mean_world, cam - mean_cam, weights=weight)[0].as_matrix()
        np.testing.assert_allclose(rotation, oracle, atol=1e-6)
        np.testing.assert_allclose(translation, mean_world - oracle @ mean_cam, atol=1e-6)

    def test_it_is_umeyama_s_without_scale(self) -> None:
        world, cam, _ = matches(20, sigma=0.3)
        oracle = umeyama(cam, world, scale=False)
        rotation, translation = kabsch(world, cam)
        np.testing.assert_allclose(rotation, oracle.rotation, atol=1e-12)
        np.testing.assert_allclose(translation, oracle.translation, atol=1e-12)

    @given(SEEDS)
    @settings(max_examples=15)
    def test_no_motion_near_it_is_better(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        world, cam, weight = rng.normal(size=(8, 3)), rng.normal(size=(8, 3)), rng.uniform(0, 1, 8)
        best = Pose(*kabsch(world, cam, weight))
        least = cost(world, cam, weight, best)
        for step in np.concatenate([np.eye(6), -np.eye(6)]) * 1e-3:
            assert cost(world, cam, weight, best @ Pose.exp(step)) >= least - 1e-12

    def test_mirrored_points_get_a_rotation_all_the_same(self) -> None:
        cam = np.random.default_rng(0).normal(size=(20, 3))
        for points in (cam, cam * [1, 1, 0], cam[:3]):
            rotation, _ = kabsch(points * [-1, 1, 1], points)
            assert np.linalg.det(rotation) == pytest.approx(1.0)
            np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)

    def test_batches_are_many_singles(self) -> None:
        rng = np.random.default_rng(0)
        world, cam, weight = rng.normal(size=(2, 5, 7, 3)), rng.normal(size=(2, 5, 7, 3)), rng.uniform(0, 1, (2, 5, 7))
        rotation, translation = kabsch(world, cam, weight)
        assert rotation.shape == (2, 5, 3, 3) and translation.shape == (2, 5, 3)
        for index in np.ndindex(2, 5):
            single = kabsch(world[index], cam[index], weight[index])
            np.testing.assert_allclose(rotation[index], single[0], atol=1e-12)
            np.testing.assert_allclose(translation[index], single[1], atol=1e-12)

    def test_what_weighs_nothing_does_not_matter(self) -> None:
        world, cam, true = matches(30, outliers=10)
        rotation, translation = kabsch(world, cam, true.astype(float))
        assert pose_error(Pose(rotation, translation), WORLD_FROM_CAM).distance < 1e-9
        nothing, _ = kabsch(world, cam, np.zeros(30))
        np.testing.assert_allclose(nothing @ nothing.T, np.eye(3), atol=1e-12)


class TestSolve:
    def test_an_exact_pose_is_found_among_seventy_percent_outliers(self) -> None:
        world, cam, true = matches(200, outliers=140)
        found = solve_rigid(world, cam, max_error=0.05, noise=0.01)
        error = pose_error(found.world_from_cam, WORLD_FROM_CAM)
        assert error.distance < 1e-6 and error.angle_deg < 1e-6
        assert found.inliers[true].all() and found.inliers[~true].sum() <= 1
        assert found.count == found.inliers.sum()

    def test_noise_and_outliers_together_leave_millimetres(self) -> None:
        world, cam, true = matches(400, outliers=240, sigma=0.02)
        found = solve_rigid(world, cam, max_error=0.1, noise=0.02)
        error = pose_error(found.world_from_cam, WORLD_FROM_CAM)
        assert error.distance < 0.012 and error.angle_deg < 0.35
        assert found.inliers[true].mean() > 0.98
        assert found.sigma == pytest.approx(0.02, rel=0.15)

    def test_inliers_are_the_matches_below_the_limit(self) -> None:
        world, cam, _ = matches(200, outliers=50, sigma=0.03)
        found = solve_rigid(world, cam, max_error=0.06, noise=0.03)
        off = np.linalg.norm(posed(found)[0].apply(cam) - world, axis=1)
        np.testing.assert_array_equal(found.inliers, off < 0.06)
        assert 50 < found.count < 150

    def test_three_exact_matches_are_enough_and_two_are_not(self) -> None:
        world, cam, _ = matches(3)
        found = solve_rigid(world, cam, max_error=0.01, noise=0.01)
        assert pose_error(found.world_from_cam, WORLD_FROM_CAM).distance < 1e-9
        for count in range(3):
            found = solve_rigid(world[:count], cam[:count], max_error=0.01, noise=0.01)
            assert found.world_from_cam is None and found.covariance is None and found.count == 0
            assert found.inliers.shape == (count,)

    def test_matches_that_no_motion_explains_get_none_or_a_handful(self) -> None:
        world, cam, _ = matches(100, outliers=100)
        assert solve_rigid(world, cam, max_error=1e-5, noise=0.01).world_from_cam is None
        assert solve_rigid(world, cam, max_error=0.05, noise=0.01).count < 8

    def test_the_most_count_and_not_the_middle(self) -> None:
        world, cam, _ = matches(100)
        world[50:80] += [1.0, 0.0, 0.0]
        world[80:] += [2.0, 0.0, 0.0]  # least squares would have the second group
        found = solve_rigid(world, cam, max_error=0.05, noise=0.01)
        assert pose_error(found.world_from_cam, WORLD_FROM_CAM).distance < 1e-3
        np.testing.assert_array_equal(found.inliers, np.arange(100) < 50)

    def test_a_mirrored_place_is_not_the_place(self) -> None:
        world, cam, _ = matches(100)
        assert solve_rigid(world, cam * [-1, 1, 1], max_error=0.05, noise=0.01).count < 40

    def test_the_same_seed_gives_the_same_bits(self) -> None:
        world, cam, _ = matches(150, outliers=90, sigma=0.02)
        first, second = (solve_rigid(world, cam, max_error=0.1, noise=0.02, seed=5) for _ in range(2))
        assert posed(first)[0] == posed(second)[0]
        np.testing.assert_array_equal(posed(first)[1], posed(second)[1])

    def test_a_world_far_from_its_origin_costs_nothing(self) -> None:
        world, cam, _ = matches(100, outliers=40)
        far = np.array([4e5, -5.2e6, 300.0])
        found = solve_rigid(world + far, cam, max_error=0.05, noise=0.01)
        np.testing.assert_allclose(posed(found)[0].translation - far, WORLD_FROM_CAM.translation, atol=1e-6)

    @pytest.mark.parametrize("which", [0, 1])
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_what_is_not_finite_is_refused(self, which: int, value: float) -> None:
        arrays = matches(10)[:2]
        arrays[which][3, 1] = value
        with pytest.raises(ValueError, match="not finite"):
            solve_rigid(*arrays, max_error=0.1, noise=0.1)

    def test_shapes_and_noise_that_cannot_be_are_refused(self) -> None:
        world, cam, _ = matches(10)
        for bad in ((world[:9], cam), (world[:, :2], cam), (world, cam[:, :2])):
            with pytest.raises(ValueError, match=r"\(N, 3\) and \(N, 3\)"):
                solve_rigid(*bad, max_error=0.1, noise=0.1)
        for noise in (0.0, -1.0, np.nan, np.zeros(10)):
            with pytest.raises(ValueError, match="positive and finite"):
                solve_rigid(world, cam, max_error=0.1, noise=noise)
        with pytest.raises(ValueError, match="one number or"):
            solve_rigid(world, cam, max_error=0.1, noise=np.ones(9))


class TestDegenerate:
    @pytest.mark.parametrize("kind", ["on a line", "one point", "two points"])
    def test_what_fixes_no_pose_neither_crashes_nor_claims_to_be_sure(self, kind: str) -> None:
        along = {"on a line": np.linspace(-1, 1, 40), "one point": np.zeros(40), "two points": np.tile([0.0, 1.0], 20)}
        cam = np.array([0.1, 0.2, 3.0]) + along[kind][:, None] * np.array([0.6, 0.3, 0.2])
        world = WORLD_FROM_CAM.apply(cam)
        for found in (
            solve_rigid(world, cam, max_error=0.1, noise=0.01),
            refine_rigid(world, cam, WORLD_FROM_CAM, max_error=0.1, noise=0.01),
        ):
            if found.world_from_cam is not None:
                assert np.sqrt(np.linalg.eigvalsh(posed(found)[1])[-1]) > 1.0

    def test_the_open_direction_is_the_turn_about_the_line(self) -> None:
        cam = np.array([0.1, 0.2, 3.0]) + np.linspace(-1, 1, 40)[:, None] * np.array([0.6, 0.3, 0.2])
        covariance = rigid_covariance(WORLD_FROM_CAM.apply(cam), cam, WORLD_FROM_CAM, 0.01)
        axis = np.array([0.6, 0.3, 0.2]) / 0.7
        turn = np.concatenate([axis, -np.cross(axis, cam[0])])
        moved = (WORLD_FROM_CAM @ Pose.exp(1e-4 * turn)).apply(cam) - WORLD_FROM_CAM.apply(cam)
        assert np.abs(moved).max() < 1e-7
        turn /= np.linalg.norm(turn)
        assert turn @ covariance @ turn > 1.0
        assert np.linalg.eigvalsh(covariance)[0] > 0


class TestRefine:
    def test_it_slides_to_the_pose_that_explains_the_matches(self) -> None:
        world, cam, true = matches(150, outliers=30)
        near = WORLD_FROM_CAM @ Pose.exp([0.01, -0.01, 0.005, 0.03, 0.0, -0.03])
        found = refine_rigid(world, cam, near, max_error=0.2, noise=0.01)
        assert pose_error(found.world_from_cam, WORLD_FROM_CAM).distance < 1e-3
        assert found.inliers[true].all()

    def test_a_first_pose_that_nothing_agrees_with_gets_none(self) -> None:
        world, cam, _ = matches(60)
        away = WORLD_FROM_CAM @ Pose.exp([0, 2.0, 0, 0, 0, 9.0])
        found = refine_rigid(world, cam, away, max_error=0.1, noise=0.01)
        assert found.world_from_cam is None and found.covariance is None and found.count == 0

    def test_gross_errors_within_the_limit_hardly_pull(self) -> None:
        world, cam, _ = matches(100, sigma=0.005)
        world[:20] += [0.2, 0.0, 0.0]
        robust = refine_rigid(world, cam, WORLD_FROM_CAM, max_error=0.5, noise=0.005)
        plain = pose_error(Pose(*kabsch(world, cam)), WORLD_FROM_CAM).distance
        assert pose_error(robust.world_from_cam, WORLD_FROM_CAM).distance < 0.1 * plain

    def test_it_is_the_minimum_of_the_cost_that_it_names(self) -> None:
        world, cam, _ = matches(50, sigma=0.02)
        sigma = np.random.default_rng(1).uniform(0.01, 0.05, 50)
        best, _ = posed(refine_rigid(world, cam, WORLD_FROM_CAM, max_error=1.0, noise=sigma))

        def named(pose: Pose) -> float:
            squares = ((world - pose.apply(cam)) ** 2).sum(axis=1) / sigma**2
            return float(np.log1p(squares).sum())

        for step in 1e-4 * np.eye(6):
            ahead, back = named(best @ Pose.exp(step)), named(best @ Pose.exp(-step))
            slope, bend = (ahead - back) / 2, ahead + back - 2 * named(best)
            assert bend > 0 and abs(slope / bend) < 0.2  # in steps: within 0.02 mm of the lowest point

    def test_matches_that_are_said_to_be_noisy_count_less(self) -> None:
        rng = np.random.default_rng(2)
        sigma = np.where(np.arange(100) < 50, 0.002, 0.05)
        told: list[float] = []
        untold: list[float] = []
        for _ in range(30):
            world, cam, _ = matches(100)
            world = world + sigma[:, None] * rng.standard_normal((100, 3))
            for errors, noise in ((told, sigma), (untold, 0.05)):
                found = refine_rigid(world, cam, WORLD_FROM_CAM, max_error=1.0, noise=noise)
                errors.append(pose_error(found.world_from_cam, WORLD_FROM_CAM).distance)
        assert np.mean(told) < 0.3 * np.mean(untold)


class TestCovariance:
    @pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy tails"])
    def test_it_is_the_scatter_of_refined_poses(self, heavy: bool) -> None:
        runs, count = 200, 60
        world, cam, _ = matches(count)
        rng = np.random.default_rng(1)
        sigma = np.random.default_rng(3).uniform(0.005, 0.03, count)
        errors, covariances = np.zeros((runs, 6)), np.zeros((runs, 6, 6))
        for run in range(runs):
            noise = rng.standard_t(4, (count, 3)) if heavy else rng.standard_normal((count, 3))
            noisy = world + sigma[:, None] * noise
            found, covariances[run] = posed(refine_rigid(noisy, cam, WORLD_FROM_CAM, max_error=1.0, noise=sigma))
            errors[run] = (WORLD_FROM_CAM.inv @ found).log()
        nees = np.einsum("ni,nij,nj->n", errors, np.linalg.inv(covariances), errors)
        assert nees.mean() == pytest.approx(6.0, abs=1.0)  # standard error of the mean: 0.25
        predicted = np.sqrt(np.einsum("nii->ni", covariances).mean(axis=0))
        np.testing.assert_allclose(errors.std(axis=0) / predicted, 1.0, atol=0.18)
        whitened = np.linalg.solve(np.linalg.cholesky(covariances.mean(axis=0)), errors.T)
        np.testing.assert_allclose(np.cov(whitened), np.eye(6), atol=0.4)

    def test_it_does_not_depend_on_the_world_frame(self) -> None:
        world, cam, _ = matches(80, sigma=0.02)
        moved_from_world = Pose.exp([0.3, 2.0, -0.7, 40.0, -3.0, 12.0])
        here = posed(refine_rigid(world, cam, WORLD_FROM_CAM, max_error=0.2, noise=0.02))
        moved = moved_from_world @ WORLD_FROM_CAM
        there = posed(refine_rigid(moved_from_world.apply(world), cam, moved, max_error=0.2, noise=0.02))
        assert pose_error(there[0], moved_from_world @ here[0]).distance < 1e-6
        np.testing.assert_allclose(there[1], here[1], rtol=1e-4, atol=1e-12)

    @pytest.mark.parametrize("scale", [1e-4, 1e6])
    def test_it_follows_the_unit_of_the_scene(self, scale: float) -> None:
        world, cam, _ = matches(80, sigma=0.02)
        scaled = Pose(WORLD_FROM_CAM.rotation, scale * WORLD_FROM_CAM.translation)
        here = rigid_covariance(world, cam, WORLD_FROM_CAM, 0.02)
        there = rigid_covariance(scale * world, scale * cam, scaled, scale * 0.02)
        units = np.repeat([1.0, scale], 3)
        np.testing.assert_allclose(there / np.outer(units, units), here, rtol=1e-6, atol=1e-15)


class TestSquaredDistances:
    @pytest.mark.parametrize(("kind", "tolerance"), [(np.float64, 1e-11), (np.float32, 2e-4)])
    def test_they_are_what_they_say(self, kind: type, tolerance: float) -> None:
        rng = np.random.default_rng(0)
        world, cam = rng.uniform(-5, 5, (2, 40, 3)).astype(kind)
        poses = [Pose.exp(rng.normal(size=6)) for _ in range(6)]
        rotation: Array = np.array([pose.rotation for pose in poses], dtype=kind)
        translation: Array = np.array([pose.translation for pose in poses], dtype=kind)
        found = squared_distances(rotation, translation, world, cam)
        assert found.dtype == kind
        direct = [((world - pose.apply(cam)) ** 2).sum(axis=1) for pose in poses]
        np.testing.assert_allclose(found, direct, atol=tolerance)


class TestSameTriangles:
    triples = np.array([[0, 1, 2]])
    triangle = np.array([[0.0, 0, 3], [1, 0, 3], [0, 1, 3]])

    def kept(self, points_world: Array, points_cam: Array, max_error: float = 0.1, height: float = 0.0) -> int:
        return len(same_triangles(points_world, points_cam, self.triples, max_error=max_error, height=height))

    def test_motions_keep_them(self) -> None:
        assert self.kept(WORLD_FROM_CAM.apply(self.triangle), self.triangle, max_error=1e-6) == 1

    @pytest.mark.parametrize("corner", [0, 1, 2])
    def test_a_corner_that_moves_too_far_does_not(self, corner: int) -> None:
        other = WORLD_FROM_CAM.apply(self.triangle)
        centre = other.mean(axis=0)
        for off, expected in ((0.15, 1), (0.35, 0)):
            moved = other.copy()
            outward = moved[corner] - centre
            moved[corner] += off * outward / np.linalg.norm(outward)
            assert self.kept(moved, self.triangle) == expected

    def test_flat_ones_are_left_out(self) -> None:
        thin = np.array([[0.0, 0, 3], [2, 0, 3], [1, 0.05, 3]])
        assert self.kept(WORLD_FROM_CAM.apply(thin), thin, height=0.049) == 1
        assert self.kept(WORLD_FROM_CAM.apply(thin), thin, height=0.051) == 0
        line = thin * [1, 0, 1]
        assert self.kept(WORLD_FROM_CAM.apply(line), line) == 0
        assert self.kept(self.triangle[[0, 0, 1]], self.triangle[[0, 0, 1]]) == 0

    def test_the_triples_come_back_in_order(self) -> None:
        cam = np.random.default_rng(0).normal(size=(30, 3))
        world = WORLD_FROM_CAM.apply(cam)
        world[::3] += 5.0
        triples = np.random.default_rng(1).integers(0, 30, (200, 3))
        kept = same_triangles(world, cam, triples, max_error=0.01)
        good = [
            list(triple)
            for triple in triples
            if len(set(triple)) == 3 and len({index % 3 == 0 for index in triple}) == 1
        ]
        np.testing.assert_array_equal(kept, good)
