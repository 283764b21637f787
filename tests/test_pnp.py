"""Pose from matches: exactness under outliers, and a covariance that means what it says."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import poselib
import pycolmap
import pytest
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.colmap import to_colmap, to_pose, to_rigid
from placecell.pnp import (
    NOISE_PX,
    Noise,
    PnP,
    halves,
    pose_covariance,
    poses_of_halves,
    projection_jacobian,
    refine_pnp,
    residual_sigma_px,
    scattered,
    solve_pnp,
)
from placecell.pose import Array, Pose, pose_error, skew

PINHOLE = Camera(640, 480, 520.0, 530.0, 315.0, 245.0)
CAMERAS = [
    PINHOLE,
    Camera(640, 480, 520.0, 530.0, 315.0, 245.0, "opencv", (-0.2, 0.05, 0.002, -0.003)),
    Camera(640, 480, 330.0, 328.0, 322.0, 238.0, "fisheye", (0.05, -0.01, 0.003, -0.001)),
]
every_camera = pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.model)
WORLD_FROM_CAM = Pose.exp([0.9, -1.3, 0.4, 3.0, -2.0, 7.5])


class Correspondences(NamedTuple):
    points_world: Array
    pixels: Array
    true: NDArray[np.bool_]
    """(N,) False for the outliers."""


def matches(camera: Camera, count: int, *, outliers: int = 0, sigma_px: float = 0.0, seed: int = 0) -> Correspondences:
    """Points in front of the camera with their pixels; the last `outliers` have pixels drawn anywhere."""
    rng = np.random.default_rng(seed)
    # More than enough, as some miss the picture: with a fisheye, x and y may be as large as z.
    points_cam = rng.uniform([-4.0, -3.0, 1.0], [4.0, 3.0, 6.0], size=(20 * count + 100, 3))
    pixels = camera.project(points_cam)
    inside = np.flatnonzero(camera.contains(pixels))[:count]
    points_cam, pixels = points_cam[inside], pixels[inside]
    true = np.arange(count) < count - outliers
    pixels = pixels + sigma_px * rng.standard_normal(pixels.shape)
    pixels[~true] = rng.uniform((0, 0), (camera.width, camera.height), size=(outliers, 2))
    return Correspondences(WORLD_FROM_CAM.apply(points_cam), pixels, true)


def posed(found: PnP) -> tuple[Pose, Array]:
    """Pose and covariance of an answer that has both."""
    assert found.world_from_cam is not None and found.covariance is not None
    return found.world_from_cam, found.covariance


class TestSolve:
    @every_camera
    def test_an_exact_pose_is_found_among_sixty_percent_outliers(self, camera: Camera) -> None:
        points, pixels, true = matches(camera, 200, outliers=120)
        found = solve_pnp(points, pixels, camera, max_error_px=2.0)
        error = pose_error(found.world_from_cam, WORLD_FROM_CAM)
        assert error.distance < 1e-6 and error.angle_deg < 1e-6
        assert found.inliers[true].all()
        assert found.inliers[~true].sum() <= 2
        assert found.count == found.inliers.sum()

    @every_camera
    def test_noise_and_outliers_together_leave_millimetres(self, camera: Camera) -> None:
        points, pixels, true = matches(camera, 300, outliers=180, sigma_px=0.5)
        found = solve_pnp(points, pixels, camera)
        error = pose_error(found.world_from_cam, WORLD_FROM_CAM)
        assert error.distance < 0.01 and error.angle_deg < 0.15
        assert found.inliers[true].mean() > 0.98
        flat_px = camera.undistort(pixels) - camera.pinhole.project(WORLD_FROM_CAM.inv.apply(points))
        assert found.sigma_px == pytest.approx(residual_sigma_px(flat_px[true]), rel=0.1)
        assert camera.model == "fisheye" or found.sigma_px == pytest.approx(0.5, rel=0.2)

    def test_the_pixels_are_those_of_the_distorted_picture(self) -> None:
        points, pixels, _ = matches(CAMERAS[1], 100)
        naive = solve_pnp(points, pixels, PINHOLE)
        assert pose_error(naive.world_from_cam, WORLD_FROM_CAM).distance > 1e-3

    def test_inliers_are_the_matches_below_the_limit(self) -> None:
        points, pixels, _ = matches(PINHOLE, 200, outliers=50, sigma_px=1.5)
        found = solve_pnp(points, pixels, PINHOLE, max_error_px=3.0)
        off_px = np.linalg.norm(PINHOLE.project(posed(found)[0].inv.apply(points)) - pixels, axis=1)
        np.testing.assert_array_equal(found.inliers, off_px < 3.0)
        assert 0 < found.count < 150

    def test_four_exact_matches_are_enough(self) -> None:
        points, pixels, _ = matches(PINHOLE, 4, seed=3)
        assert pose_error(solve_pnp(points, pixels, PINHOLE).world_from_cam, WORLD_FROM_CAM).distance < 1e-6

    @pytest.mark.parametrize("count", [0, 1, 2, 3])
    def test_fewer_than_four_are_not(self, count: int) -> None:
        points, pixels, _ = matches(PINHOLE, count)
        found = solve_pnp(points, pixels, PINHOLE)
        assert found.world_from_cam is None and found.covariance is None
        assert found.inliers.shape == (count,) and found.count == 0

    def test_matches_that_no_pose_explains_get_none(self) -> None:
        points, pixels, _ = matches(PINHOLE, 100, outliers=100)
        found = solve_pnp(points, pixels, PINHOLE, max_error_px=0.05)
        assert found.world_from_cam is None and found.covariance is None
        assert found.count == 0

    @pytest.mark.parametrize("seed", range(4))
    def test_at_a_loose_limit_chance_agrees_for_a_handful_only(self, seed: int) -> None:
        points, pixels, _ = matches(PINHOLE, 100, outliers=100, seed=seed)
        assert solve_pnp(points, pixels, PINHOLE, max_error_px=6.0, seed=seed).count < 10

    def test_the_same_seed_gives_the_same_bits(self) -> None:
        points, pixels, _ = matches(PINHOLE, 150, outliers=90, sigma_px=1.0)
        first, second = (solve_pnp(points, pixels, PINHOLE, seed=5) for _ in range(2))
        assert posed(first)[0] == posed(second)[0]
        np.testing.assert_array_equal(first.inliers, second.inliers)
        np.testing.assert_array_equal(posed(first)[1], posed(second)[1])

    @pytest.mark.parametrize("which", [0, 1])
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_what_is_not_finite_is_refused(self, which: int, value: float) -> None:
        arrays = matches(PINHOLE, 10)[:2]
        arrays[which][3, 1] = value
        with pytest.raises(ValueError, match="not finite"):
            solve_pnp(*arrays, PINHOLE)

    def test_shapes_that_disagree_are_refused(self) -> None:
        points, pixels, _ = matches(PINHOLE, 10)
        for bad in ((points[:9], pixels), (points[:, :2], pixels), (points, points)):
            with pytest.raises(ValueError, match=r"\(N, 3\) and \(N, 2\)"):
                solve_pnp(*bad, PINHOLE)

    def test_a_pixel_that_no_ray_reaches_is_an_outlier(self) -> None:
        points, pixels, _ = matches(CAMERAS[1], 60)
        pixels[7] = (1e5, -1e5)
        assert not np.isfinite(CAMERAS[1].rays(pixels[7])).all()
        found = solve_pnp(points, pixels, CAMERAS[1])
        assert pose_error(found.world_from_cam, WORLD_FROM_CAM).distance < 1e-6
        np.testing.assert_array_equal(found.inliers, np.arange(60) != 7)


def line(count: int) -> Array:
    """Points on one line in front of the camera, in camera axes."""
    return np.array([0.1, 0.2, 3.0]) + np.linspace(-1, 1, count)[:, None] * np.array([0.6, 0.3, 0.2])


class TestDegenerate:
    @pytest.mark.parametrize(
        "points_cam",
        [
            line(40),
            line(40) * [0.0, 0.0, 1.0],
            np.repeat(line(1), 40, axis=0),
            np.repeat(line(2), 20, axis=0),
        ],
        ids=["on a line", "on the optical axis", "one point", "two points"],
    )
    def test_what_fixes_no_pose_neither_crashes_nor_claims_to_be_sure(self, points_cam: Array) -> None:
        pixels = PINHOLE.project(points_cam)
        points = WORLD_FROM_CAM.apply(points_cam)
        for found in (solve_pnp(points, pixels, PINHOLE), refine_pnp(points, pixels, PINHOLE, WORLD_FROM_CAM)):
            if found.world_from_cam is not None:
                assert np.sqrt(np.linalg.eigvalsh(posed(found)[1])[-1]) > 1.0

    def test_points_in_a_plane_fix_a_pose(self) -> None:
        rng = np.random.default_rng(0)
        points_cam = rng.uniform(-1, 1, (40, 2)) @ np.array([[1.0, 0.0, 0.4], [0.0, 1.0, -0.3]]) + [0, 0, 4.0]
        found = solve_pnp(WORLD_FROM_CAM.apply(points_cam), PINHOLE.project(points_cam), PINHOLE)
        assert pose_error(found.world_from_cam, WORLD_FROM_CAM).distance < 1e-6
        assert found.count == 40


class TestRefine:
    @every_camera
    def test_it_slides_to_the_pose_that_explains_the_matches(self, camera: Camera) -> None:
        points, pixels, true = matches(camera, 150, outliers=30)
        near = WORLD_FROM_CAM @ Pose.exp([0.004, -0.003, 0.002, 0.01, 0.0, -0.01])
        found = refine_pnp(points, pixels, camera, near, max_error_px=8.0)
        error = pose_error(found.world_from_cam, WORLD_FROM_CAM)
        assert error.distance < 1e-3 and error.angle_deg < 0.02
        assert found.inliers[true].all()

    def test_points_behind_the_camera_take_no_part(self) -> None:
        points, pixels, _ = matches(PINHOLE, 60)
        # The mirror image of a point through the centre projects to the same pixel by the bare formula.
        points[:20] = WORLD_FROM_CAM.apply(-WORLD_FROM_CAM.inv.apply(points[:20]))
        found = refine_pnp(points, pixels, PINHOLE, WORLD_FROM_CAM)
        np.testing.assert_array_equal(found.inliers, np.arange(60) >= 20)

    def test_a_first_pose_that_nothing_agrees_with_gets_none(self) -> None:
        points, pixels, _ = matches(PINHOLE, 60)
        away = WORLD_FROM_CAM @ Pose.exp([0, 2.0, 0, 0, 0, 0])
        found = refine_pnp(points, pixels, PINHOLE, away)
        assert found.world_from_cam is None and found.covariance is None and found.count == 0


class TestCovariance:
    @every_camera
    def test_the_jacobian_is_the_derivative_by_the_right_perturbation(self, camera: Camera) -> None:
        points = matches(camera, 30).points_world
        numeric = np.zeros((30, 2, 6))
        step = 1e-6
        for axis, xi in enumerate(step * np.eye(6)):
            ahead, back = (
                camera.pinhole.project((WORLD_FROM_CAM @ Pose.exp(sign * xi)).inv.apply(points)) for sign in (1, -1)
            )
            numeric[..., axis] = (ahead - back) / (2 * step)
        np.testing.assert_allclose(projection_jacobian(points, camera, WORLD_FROM_CAM), numeric, rtol=1e-6, atol=1e-4)

    @pytest.mark.parametrize("sigma_px", [0.3, 1.0])
    def test_it_is_the_scatter_of_refined_poses(self, sigma_px: float) -> None:
        runs = 300
        points, exact, _ = matches(PINHOLE, 120)
        rng = np.random.default_rng(1)
        errors, covariances = np.zeros((runs, 6)), np.zeros((runs, 6, 6))
        for run in range(runs):
            noisy = exact + sigma_px * rng.standard_normal(exact.shape)
            found, covariances[run] = posed(refine_pnp(points, noisy, PINHOLE, WORLD_FROM_CAM, max_error_px=8.0))
            errors[run] = (WORLD_FROM_CAM.inv @ found).log()
        nees = np.einsum("ni,nij,nj->n", errors, np.linalg.inv(covariances), errors)
        assert nees.mean() == pytest.approx(6.0, abs=0.9)  # standard error of the mean: 0.2
        predicted = np.sqrt(np.einsum("nii->ni", covariances).mean(axis=0))
        np.testing.assert_allclose(errors.std(axis=0) / predicted, 1.0, atol=0.15)
        # And the correlations: in the axes of the mean prediction the scatter is a unit ball.
        whitened = np.linalg.solve(np.linalg.cholesky(covariances.mean(axis=0)), errors.T)
        np.testing.assert_allclose(np.cov(whitened), np.eye(6), atol=0.35)

    @pytest.mark.parametrize("sigma_px", [0.0, 0.3])
    def test_it_is_that_of_pycolmap_in_our_axes(self, sigma_px: float) -> None:
        """pycolmap 4.2 perturbs R = exp(2a) R, t = t + b of cam_from_world, at a residual of one pixel.

        With M = [[2 I, 0], [2 [t]x, I]], M C Mᵀ is the covariance of the right perturbation of `world_from_cam`, and
        ours is that times a number: the variance of the residuals. Should this fail after an upgrade, pycolmap has
        changed its parameterisation.
        """
        points, pixels, _ = matches(PINHOLE, 200, sigma_px=sigma_px)
        mask = np.ones(200, dtype=bool)
        theirs = pycolmap.refine_absolute_pose(
            to_rigid(WORLD_FROM_CAM.inv), pixels, points, mask, to_colmap(PINHOLE, 1), return_covariance=True
        )
        cam_from_world = to_pose(theirs["cam_from_world"])
        found, ours = posed(refine_pnp(points, pixels, PINHOLE, WORLD_FROM_CAM, max_error_px=20.0))
        assert pose_error(found, cam_from_world.inv).distance < 1e-4
        zero, one = np.zeros((3, 3)), np.eye(3)
        to_right = np.block([[2 * one, zero], [2 * skew(cam_from_world.translation), one]])
        converted = to_right @ theirs["covariance"] @ to_right.T
        variance = np.trace(np.linalg.solve(converted, ours)) / 6
        if sigma_px:
            assert variance == pytest.approx(sigma_px**2, rel=0.25)
        unit = np.sqrt(np.outer(np.diag(ours), np.diag(ours)))
        np.testing.assert_allclose(variance * converted / unit, ours / unit, atol=0.08 if sigma_px else 1e-4)

    def test_it_does_not_depend_on_the_world_frame(self) -> None:
        points, pixels, _ = matches(PINHOLE, 80, sigma_px=0.5)
        moved_from_world = Pose.exp([0.3, 2.0, -0.7, 40.0, -3.0, 12.0])
        here = posed(refine_pnp(points, pixels, PINHOLE, WORLD_FROM_CAM))
        there = posed(refine_pnp(moved_from_world.apply(points), pixels, PINHOLE, moved_from_world @ WORLD_FROM_CAM))
        assert pose_error(there[0], moved_from_world @ here[0]).distance < 1e-6
        np.testing.assert_allclose(there[1], here[1], rtol=1e-4, atol=1e-12)

    @pytest.mark.parametrize("scale", [1e-4, 1e6])
    def test_it_follows_the_unit_of_the_scene(self, scale: float) -> None:
        points, pixels, _ = matches(PINHOLE, 80)
        pixels = pixels + 0.5 * np.random.default_rng(0).standard_normal((80, 2))
        scaled = Pose(WORLD_FROM_CAM.rotation, scale * WORLD_FROM_CAM.translation)
        here = pose_covariance(points, pixels, PINHOLE, WORLD_FROM_CAM)
        there = pose_covariance(scale * points, pixels, PINHOLE, scaled)
        units = np.repeat([1.0, scale], 3)
        np.testing.assert_allclose(there / np.outer(units, units), here, rtol=1e-6, atol=1e-15)

    def test_what_the_matches_leave_open_is_not_called_certain(self) -> None:
        points = WORLD_FROM_CAM.apply(line(50))
        pixels = PINHOLE.project(line(50))
        covariance = pose_covariance(points, pixels, PINHOLE, WORLD_FROM_CAM)
        # Turning the camera about the line moves no pixel: x -> x + w × (x - a), in camera axes.
        axis = np.array([0.6, 0.3, 0.2]) / 0.7
        open_direction = np.concatenate([axis, -np.cross(axis, line(50)[0])])
        free = np.linalg.norm(projection_jacobian(points, PINHOLE, WORLD_FROM_CAM) @ open_direction, axis=1)
        assert free.max() < 1e-9
        along = open_direction / np.linalg.norm(open_direction)
        assert along @ covariance @ along > 1.0
        assert np.linalg.eigvalsh(covariance)[0] > 0

    def test_residuals_are_measured_robustly(self) -> None:
        residuals = 0.7 * np.random.default_rng(0).standard_normal((500, 2))
        residuals[:60] = 50.0
        assert residual_sigma_px(residuals) == pytest.approx(0.7, rel=0.25)
        assert np.isnan(residual_sigma_px(np.zeros((0, 2))))


class TestPointCovariance:
    """Points that are themselves uncertain: half of them along a slant across the view, the others hardly at all."""

    points, pixels, _ = matches(PINHOLE, 120)
    spread = np.zeros((120, 3, 3))
    world_from_long = WORLD_FROM_CAM.rotation @ Pose.exp([0.2, -0.3, np.pi / 4, 0, 0, 0]).rotation
    spread[::2] = world_from_long @ np.diag([0.04, 0.002, 0.02]) ** 2 @ world_from_long.T
    spread[1::2] = np.diag([0.001, 0.001, 0.001]) ** 2

    def noisy(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Points and pixels, each off by as much as is said of them."""
        off = np.einsum("nij,nj->ni", np.linalg.cholesky(self.spread), rng.standard_normal((120, 3)))
        return self.points + off, self.pixels + NOISE_PX * rng.standard_normal((120, 2))

    def test_the_scatter_is_what_it_says_and_less_than_without_it(self) -> None:
        rng = np.random.default_rng(4)
        runs = 200
        told, untold, nees = np.zeros((runs, 6)), np.zeros((runs, 6)), np.zeros(runs)
        for run in range(runs):
            points, pixels = self.noisy(rng)
            weighted, covariance = posed(
                refine_pnp(points, pixels, PINHOLE, WORLD_FROM_CAM, point_covariance=self.spread, max_error_px=60.0)
            )
            plain, _ = posed(refine_pnp(points, pixels, PINHOLE, WORLD_FROM_CAM, max_error_px=60.0))
            told[run], untold[run] = ((WORLD_FROM_CAM.inv @ pose).log() for pose in (weighted, plain))
            nees[run] = told[run] @ np.linalg.solve(covariance, told[run])
        assert nees.mean() == pytest.approx(6.0, abs=1.2)
        shrunk = told.std(axis=0) / untold.std(axis=0)
        assert (shrunk < 1.0).all() and shrunk.mean() < 0.92  # Cauchy's weights alone spare us some of the harm

    def test_exact_points_are_those_without_one(self) -> None:
        _, pixels = self.noisy(np.random.default_rng(5))
        none, zero = (
            posed(refine_pnp(self.points, pixels, PINHOLE, WORLD_FROM_CAM, point_covariance=spread))
            for spread in (None, np.zeros((120, 3, 3)))
        )
        np.testing.assert_allclose(zero[0].matrix, none[0].matrix, atol=1e-10)
        np.testing.assert_allclose(zero[1], none[1], rtol=1e-8, atol=1e-16)

    def test_it_is_in_world_axes(self) -> None:
        points, pixels = self.noisy(np.random.default_rng(6))
        moved_from_world = Pose.exp([0.3, 2.0, -0.7, 40.0, -3.0, 12.0])
        turned = moved_from_world.rotation @ self.spread @ moved_from_world.rotation.T
        here = posed(refine_pnp(points, pixels, PINHOLE, WORLD_FROM_CAM, point_covariance=self.spread))
        there = posed(
            refine_pnp(
                moved_from_world.apply(points),
                pixels,
                PINHOLE,
                moved_from_world @ WORLD_FROM_CAM,
                point_covariance=turned,
            )
        )
        assert pose_error(there[0], moved_from_world @ here[0]).distance < 1e-6
        np.testing.assert_allclose(there[1], here[1], rtol=1e-4, atol=1e-12)


class TestNoiseOfEachMatch:
    def test_the_scatter_is_what_it_says_and_less_than_when_all_count_alike(self) -> None:
        points, pixels, _ = matches(PINHOLE, 200)
        noise_px = np.where(np.arange(200) % 2 == 0, 0.3, 4.0)
        rng, told, untold = np.random.default_rng(5), [], []
        for _ in range(150):
            seen = pixels + noise_px[:, None] * rng.standard_normal(pixels.shape)
            for noise, found in ((noise_px, told), (2.0, untold)):
                answer = refine_pnp(points, seen, PINHOLE, WORLD_FROM_CAM, max_error_px=20.0, noise_px=noise)
                pose, covariance = posed(answer)
                error = (WORLD_FROM_CAM.inv @ pose).log()
                found.append((float(error @ error), float(error @ np.linalg.solve(covariance, error))))
        (size, nees), (size_untold, _) = np.mean(told, axis=0), np.mean(untold, axis=0)
        assert size < 0.3 * size_untold
        assert nees == pytest.approx(6.0, rel=0.25)

    def test_one_number_is_that_of_all(self) -> None:
        points, pixels, _ = matches(PINHOLE, 60, sigma_px=1.0)
        alike = solve_pnp(points, pixels, PINHOLE, noise_px=1.5)
        each = solve_pnp(points, pixels, PINHOLE, noise_px=np.full(60, 1.5))
        np.testing.assert_array_equal(posed(alike)[1], posed(each)[1])
        assert (posed(alike)[1] != posed(solve_pnp(points, pixels, PINHOLE))[1]).any()


class TestRuns:
    """Further RANSACs on halves of the matches, and what they disagree on."""

    @pytest.mark.parametrize("noise_px", [1.0, np.where(np.arange(200) % 2 == 0, 0.4, 4.0)], ids=["alike", "of each"])
    def test_the_scatter_is_the_spread_over_redrawn_noise(self, noise_px: Noise) -> None:
        points, exact, _ = matches(PINHOLE, 200)
        rng = np.random.default_rng(7)

        def drawn(runs: int) -> tuple[Pose, Array]:
            pixels = exact + np.reshape(noise_px, (-1, 1)) * rng.standard_normal(exact.shape)
            return posed(solve_pnp(points, pixels, PINHOLE, max_error_px=15.0, noise_px=noise_px, runs=runs))

        errors = np.array([(WORLD_FROM_CAM.inv @ drawn(1)[0]).log() for _ in range(250)])
        scatter = []
        for _ in range(12):
            pixels = exact + np.reshape(noise_px, (-1, 1)) * rng.standard_normal(exact.shape)
            one, many = (
                posed(solve_pnp(points, pixels, PINHOLE, max_error_px=15.0, noise_px=noise_px, runs=runs))[1]
                for runs in (1, 30)
            )
            scatter.append(many - one)
        predicted = np.sqrt(np.diag(np.mean(scatter, axis=0)))
        np.testing.assert_allclose(predicted / errors.std(axis=0), 1.0, atol=0.3)

    RIVAL = WORLD_FROM_CAM @ Pose.exp([0.1, 0.5, -0.1, 1.5, 0.2, -0.4])

    def rivals(self, winners: int, others: int, seed: int) -> tuple[Array, Array]:
        """Matches of which some were seen from one place and some from another, in any order."""
        points, pixels, _ = matches(PINHOLE, winners + others, sigma_px=0.5, seed=seed)
        there = WORLD_FROM_CAM.inv.apply(points[winners:])
        points[winners:] = self.RIVAL.apply(there)
        order = np.random.default_rng(seed).permutation(len(points))
        return points[order], pixels[order]

    def off(self, found: PnP) -> float:
        """Squared Mahalanobis distance of the rival from an answer."""
        pose, covariance = posed(found)
        away = (pose.inv @ self.RIVAL).log()
        return float(away @ np.linalg.solve(covariance, away))

    def test_a_rival_is_within_what_is_stated(self) -> None:
        """95 % of a normal distribution of six dimensions lies within a squared distance of 12.6."""
        apart = pose_error(self.RIVAL, WORLD_FROM_CAM).distance
        for seed in range(5):
            points, pixels = self.rivals(22, 18, seed)
            sure, unsure = (solve_pnp(points, pixels, PINHOLE, runs=runs) for runs in (1, 30))
            assert pose_error(posed(unsure)[0], WORLD_FROM_CAM).distance < 0.01
            assert self.off(sure) > 1e4 and self.off(unsure) < 12.6
            assert np.sqrt(np.trace(posed(unsure)[1][3:, 3:])) > apart / 4

    def test_a_crowd_of_outliers_is_no_rival(self) -> None:
        points, pixels = self.rivals(80, 20, 0)
        sure, unsure = (posed(solve_pnp(points, pixels, PINHOLE, runs=runs))[1] for runs in (1, 30))
        assert np.trace(unsure[3:, 3:]) < 6 * np.trace(sure[3:, 3:])

    def test_one_run_is_ransac_and_refinement(self) -> None:
        points, pixels, _ = matches(PINHOLE, 90, outliers=40, sigma_px=0.6)
        options = {"max_reproj_error": 6.0, "seed": 3, "success_prob": 0.9999, "min_iterations": 50}
        some = np.linspace(0, 89, 70).astype(int)
        camera = {"model": "PINHOLE", "width": 640, "height": 480, "params": [520.0, 530.0, 315.0, 245.0]}
        first, _ = poselib.estimate_absolute_pose(
            PINHOLE.undistort(pixels)[some],
            points[some],
            camera,
            options | {"max_iterations": 10_000},
            {"loss_type": "CAUCHY", "loss_scale": 1.0, "max_iterations": 5},
        )
        expected = refine_pnp(points, pixels, PINHOLE, Pose.nearest(first.Rt).inv, sampled=70)
        for told in ({}, {"runs": 1}):
            found = solve_pnp(points, pixels, PINHOLE, sampled=70, seed=3, **told)
            np.testing.assert_array_equal(posed(found)[0].matrix, posed(expected)[0].matrix)
            np.testing.assert_array_equal(posed(found)[1], posed(expected)[1])

    def test_more_of_them_change_the_covariance_alone(self) -> None:
        points, pixels, _ = matches(PINHOLE, 90, outliers=40, sigma_px=0.6)
        one, more, again, other = (
            solve_pnp(points, pixels, PINHOLE, runs=runs, seed=seed) for runs, seed in ((1, 3), (8, 3), (8, 3), (8, 4))
        )
        assert posed(more)[0] == posed(one)[0] and more.sigma_px == one.sigma_px
        np.testing.assert_array_equal(more.inliers, one.inliers)
        added = posed(more)[1] - posed(one)[1]
        assert np.linalg.eigvalsh(added)[0] > 0 or np.linalg.matrix_rank(added, hermitian=True) == 6
        np.testing.assert_array_equal(posed(more)[1], posed(more)[1].T)
        np.testing.assert_array_equal(posed(again)[1], posed(more)[1])
        assert (posed(other)[1] != posed(more)[1]).any()

    @pytest.mark.parametrize("count", range(9))
    def test_few_matches_are_borne(self, count: int) -> None:
        points, pixels, _ = matches(PINHOLE, count, sigma_px=0.3)
        one, more = (solve_pnp(points, pixels, PINHOLE, runs=runs) for runs in (1, 8))
        assert (one.world_from_cam is None) == (more.world_from_cam is None)
        if more.world_from_cam is not None and count < 8:
            np.testing.assert_array_equal(posed(more)[1], posed(one)[1])
        if count == 8:
            assert np.isfinite(posed(more)[1]).all() and np.trace(posed(more)[1]) > np.trace(posed(one)[1])

    def test_each_sees_a_half(self) -> None:
        found = list(halves(21, 40, seed=5))
        assert len(found) == 40 and len({tuple(half) for half in found}) == 40
        for half in found:
            assert len(half) == 10 and (np.diff(half) > 0).all() and set(half) <= set(range(21))
        assert np.bincount(np.concatenate(found), minlength=21).min() > 8
        assert any((a != b).any() for a, b in zip(found, halves(21, 40, seed=6), strict=True))

    def test_pixels_without_a_ray_take_no_part(self) -> None:
        points, pixels, _ = matches(CAMERAS[1], 60, sigma_px=0.5)
        told = {"runs": 6, "seed": 1}
        without = poses_of_halves(np.delete(points, 7, 0), np.delete(pixels, 7, 0), CAMERAS[1], **told)
        pixels[7] = (1e5, -1e5)
        found = poses_of_halves(points, pixels, CAMERAS[1], **told)
        assert len(without) == 6
        assert max(pose_error(a, b).distance for a, b in zip(found, without, strict=True)) < 1e-6

    def test_the_scatter_is_the_mean_square_about_the_answer(self) -> None:
        pose, step = WORLD_FROM_CAM, np.array([0.1, -0.2, 0.05, 0.5, 0.1, -0.3])
        found = PnP(pose, np.ones(9, dtype=bool), np.diag(np.arange(1.0, 7.0)), 0.5)
        others = [pose @ Pose.exp(step), pose @ Pose.exp(-2 * step)]
        wider = scattered(found, others)
        np.testing.assert_allclose(posed(wider)[1], np.diag(np.arange(1.0, 7.0)) + 2.5 * np.outer(step, step))
        assert wider.world_from_cam == pose and wider.count == 9
        assert scattered(found, []) is found
        none = PnP(None, np.zeros(9, dtype=bool), None, float("nan"))
        assert scattered(none, others) is none

    @pytest.mark.parametrize("told", [{"runs": 0}, {"runs": 2, "refine": False}])
    def test_runs_without_a_covariance_are_refused(self, told: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"runs count from 1, and more than one need refine"):
            solve_pnp(*matches(PINHOLE, 20)[:2], PINHOLE, **told)
