"""Likelihoods of poses by mixtures of modes under projection, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.families.coordinates.mixtures import Mixtures, mixtures_of
from placecell.pnp import projection_jacobian
from placecell.pose import Pose, pose_error

CAMERA = Camera(640, 480, 520.0, 530.0, 315.0, 245.0)
WORLD_FROM_CAM = Pose.exp([0.3, -0.8, 0.2, 1.0, 0.5, -0.7])
Floats = NDArray[np.float32]


def arrays(count: int = 60) -> tuple[Floats, Floats, Floats, Floats]:
    """Pixels, world (N, 3, 3), weight (N, 3), covariance: two pixels in three have a true mode, some have only two."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform((0, 0), (640, 480), (count, 2))
    factor = 0.03 * rng.normal(size=(count, 3, 3, 3))
    covariance = factor @ factor.swapaxes(-1, -2) + 1e-5 * np.eye(3)
    world = WORLD_FROM_CAM.apply(CAMERA.rays(rng.uniform((0, 0), (640, 480), (count, 3, 2))) * 3)
    true = np.flatnonzero(np.arange(count) % 3)
    slot = rng.integers(0, 2, len(true))
    off = np.linalg.cholesky(covariance[true, slot]) @ rng.normal(size=(len(true), 3, 1))
    seen = CAMERA.rays(pixels[true]) * rng.uniform(1, 4, (len(true), 1))
    world[true, slot] = WORLD_FROM_CAM.apply(seen) + off[..., 0]
    weight = np.tile([0.5, 0.2, 0.2], (count, 1))
    world[::5, 2], weight[::5, 2], covariance[::5, 2] = np.nan, 0.0, np.nan
    single = [values.astype(np.float32) for values in (pixels, world, weight, covariance)]
    return single[0], single[1], single[2], single[3]


def stacked(poses: list[Pose]) -> tuple[Floats, Floats]:
    rotation = np.array([pose.rotation for pose in poses], dtype=np.float32)
    return rotation, np.array([pose.translation for pose in poses], dtype=np.float32)


@pytest.fixture
def mixtures() -> Mixtures:
    return mixtures_of(*arrays(), CAMERA, 10.0)[0]


@pytest.fixture
def poses() -> list[Pose]:
    """About the origin of the mixtures, the first the true one."""
    true = Pose(WORLD_FROM_CAM.rotation, WORLD_FROM_CAM.translation - mixtures_of(*arrays(), CAMERA, 10.0)[1])
    rng = np.random.default_rng(1)
    return [true, *(true @ Pose.exp(size * rng.normal(size=6)) for size in (0.004, 0.01, 0.02, 0.03, 1.0))]


def log_likelihood(mixtures: Mixtures, pose: Pose, floor_px: float = 2.5) -> float:
    """Σ log of the mixtures under projection, pixel by pixel and mode by mode."""
    total = 0.0
    for pixel, shown in enumerate(mixtures.pixels):
        weight = mixtures.weight[:, pixel]
        likelihood = max(1.0 - float(weight.sum()), 0.1) / (640 * 480)
        for mode in np.flatnonzero(weight):
            point = mixtures.world[mode, pixel].astype(np.float64)
            if pose.inv.apply(point)[2] <= 1e-3:
                continue
            spread = floor_px**2 * np.eye(2)
            if mixtures.covariance is not None:
                by_point = -projection_jacobian(point[None], CAMERA, pose)[0, :, 3:] @ pose.rotation.T
                spread = spread + by_point @ mixtures.covariance[mode, pixel] @ by_point.T
            off = shown - CAMERA.project(pose.inv.apply(point))
            bell = np.exp(-0.5 * off @ np.linalg.inv(spread) @ off) / (2 * np.pi * np.sqrt(np.linalg.det(spread)))
            likelihood += weight[mode] * bell
        total += float(np.log(likelihood))
    return total


class TestMixturesOf:
    def test_pixels_without_a_ray_or_modes_are_left_out(self) -> None:
        pixels, world, weight, covariance = arrays()
        distorted = Camera(640, 480, 520.0, 530.0, 315.0, 245.0, "opencv", (-0.2, 0.05, 0.002, -0.003))
        pixels[3], weight[7] = (1e5, -1e5), 0.0
        mixtures, _ = mixtures_of(pixels, world, weight, covariance, distorted, 10.0)
        assert len(mixtures) == 58
        assert mixtures.camera == distorted.pinhole
        np.testing.assert_allclose(mixtures.pixels[0], distorted.undistort(pixels[0]))


class TestEnergy:
    @pytest.mark.parametrize("spread", [True, False])
    def test_it_is_the_likelihood_that_it_names(self, mixtures: Mixtures, poses: list[Pose], spread: bool) -> None:
        if not spread:
            pixels, world, weight, _ = arrays()
            mixtures = mixtures_of(pixels, world, weight, None, CAMERA, 10.0)[0]
        found = mixtures.energy(*stacked(poses))
        np.testing.assert_allclose(found, [-log_likelihood(mixtures, pose) for pose in poses], rtol=2e-4)
        assert found.argmin() <= 1 and found[-1] > found[0] + 100

    def test_what_lies_behind_the_camera_is_as_unlikely_as_anything(
        self, mixtures: Mixtures, poses: list[Pose]
    ) -> None:
        # Turned about, the mirror images through the centre would show at the same pixels.
        behind = mixtures.only(np.arange(60))
        centre = poses[0].translation.astype(np.float32)
        mirrored = Mixtures(
            behind.pixels, 2 * centre - behind.world, behind.weight, behind.covariance, CAMERA, behind.max_error_px
        )
        stray = np.maximum(1 - mirrored.weight.sum(axis=0), 0.1) / (640 * 480)
        np.testing.assert_allclose(mirrored.energy(*stacked(poses[:1])), -np.log(stray).sum(), rtol=1e-5)

    def test_a_camera_amid_the_modes_overflows_nothing(self, mixtures: Mixtures, poses: list[Pose]) -> None:
        ahead = poses[0].rotation[:, 2]
        amid = [
            Pose(poses[0].rotation, point - z * ahead) for point in mixtures.world[0, :20] for z in (0.0, 2e-3, 0.05)
        ]
        assert np.isfinite(mixtures.energy(*stacked(amid))).all()
        assert all(np.isfinite(part).all() for part in mixtures.refined(*stacked(amid)))

    def test_parts_add_up(self, mixtures: Mixtures, poses: list[Pose]) -> None:
        parts = [mixtures.only(np.arange(first, 60, 2)).energy(*stacked(poses)) for first in (0, 1)]
        np.testing.assert_allclose(sum(parts), mixtures.energy(*stacked(poses)), rtol=1e-6)


class TestHypotheses:
    def test_true_poses_are_among_them(self, mixtures: Mixtures, poses: list[Pose]) -> None:
        rotation, translation = mixtures.hypotheses(256, np.random.default_rng(0))
        errors = [
            pose_error(Pose.nearest(np.column_stack(pair)), poses[0])
            for pair in zip(rotation, translation, strict=True)
        ]
        assert sum(error.distance < 0.3 for error in errors) > 10

    def test_a_pixel_does_not_vouch_for_itself(self) -> None:
        pixels, world, weight, _ = arrays(4)
        weight[:, 1:] = 0.0
        world[:, 0] = np.random.default_rng(3).normal(size=(4, 3))
        narrow = mixtures_of(pixels[:3], world[:3], weight[:3], None, CAMERA, 1.0)[0]
        assert len(narrow.hypotheses(64, np.random.default_rng(0))[0]) == 0


class TestRefined:
    def test_a_step_never_makes_the_pixels_less_likely(self, mixtures: Mixtures, poses: list[Pose]) -> None:
        rng = np.random.default_rng(2)
        poses = [*poses, *(poses[0] @ Pose.exp(size * rng.normal(size=6)) for size in np.linspace(0.05, 1, 30))]
        before = mixtures.energy(*stacked(poses))
        after = mixtures.energy(*mixtures.refined(*stacked(poses)))
        assert (after <= before).all() and (after[1:5] < before[1:5] - 1.0).all()

    def test_steps_end_where_none_helps(self, mixtures: Mixtures, poses: list[Pose]) -> None:
        rotation, translation = stacked(poses[:4])
        for _ in range(12):
            rotation, translation = mixtures.refined(rotation, translation)
        found = [Pose.nearest(np.column_stack(pair)) for pair in zip(rotation, translation, strict=True)]
        for pose in found:
            assert pose_error(pose, poses[0]).distance < 0.03
        best = min(found, key=lambda pose: -log_likelihood(mixtures, pose))
        for step in np.concatenate([np.eye(6), -np.eye(6)]) * 0.01:
            assert log_likelihood(mixtures, best @ Pose.exp(step)) < log_likelihood(mixtures, best)

    def test_the_likeliest_modes_are_those_of_the_densities(self, mixtures: Mixtures, poses: list[Pose]) -> None:
        points, covariance = mixtures.likeliest(poses[0].rotation, poses[0].translation)
        assert covariance is not None
        true = np.flatnonzero(np.arange(60) % 3)
        off_px = np.linalg.norm(CAMERA.project(poses[0].inv.apply(points[true])) - mixtures.pixels[true], axis=1)
        assert np.median(off_px) < 15
        modes = (mixtures.world == points.astype(np.float32)).all(axis=2).argmax(axis=0)
        np.testing.assert_array_equal(covariance.astype(np.float32), mixtures.covariance[modes, np.arange(60)])  # type: ignore[index]
