"""Energies and refinements of poses by modes of pixels with depth, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from placecell.families.coordinates.modes import Modes, chunks, drawn_by, modes_of
from placecell.pose import Array, Pose, pose_error
from placecell.rigid import kabsch

WORLD_FROM_CAM = Pose.exp([0.3, -0.8, 0.2, 1.0, 0.5, -0.7])
Floats = NDArray[np.float32]


def arrays(count: int = 60) -> tuple[Floats, Floats, Floats]:
    """World (N, 3, 3), cam (N, 3), weight (N, 3): every other pixel has a true mode, every fifth only two."""
    rng = np.random.default_rng(0)
    cam = rng.uniform([-1, -1, 1], [1, 1, 3], (count, 3))
    world = rng.uniform(-2, 2, (count, 3, 3))
    true = np.arange(0, count, 2)
    near = WORLD_FROM_CAM.apply(cam[true]) + rng.normal(0, 0.02, (len(true), 3))
    slot = rng.integers(0, 2, len(true))
    world[true, slot] = near
    world[true[::3], 1 - slot[::3]] = near[::3] + np.array([0.05, 0, 0])  # of two near modes only the nearest counts
    weight = np.full((count, 3), 1 / 3)
    world[::5, 2], weight[::5, 2] = np.nan, 0.0
    return world.astype(np.float32), cam.astype(np.float32), weight.astype(np.float32)


def stacked(poses: list[Pose]) -> tuple[Floats, Floats]:
    rotation = np.array([pose.rotation for pose in poses], dtype=np.float32)
    return rotation, np.array([pose.translation for pose in poses], dtype=np.float32)


@pytest.fixture
def modes() -> Modes:
    return modes_of(*arrays(), None, 0.1)[0]


@pytest.fixture
def poses() -> list[Pose]:
    """About the origin of the modes, the first the true one."""
    origin = modes_of(*arrays(), None, 0.1)[1]
    true = Pose(WORLD_FROM_CAM.rotation, WORLD_FROM_CAM.translation - origin)
    rng = np.random.default_rng(1)
    return [true, *(true @ Pose.exp(0.004 * size * rng.normal(size=6)) for size in range(1, 8))]


def inliers(modes: Modes, pose: Pose) -> tuple[Array, Array]:
    """World and camera points of the pixels whose nearest mode is within the limit, by a plain loop."""
    found = []
    for pixel, cam in enumerate(modes.cam):
        off = np.linalg.norm(modes.world[:, pixel] - pose.apply(cam), axis=1)
        if off.min() < modes.max_error_m:
            found.append((modes.world[off.argmin(), pixel], cam))
    world, cams = (np.array(points, dtype=np.float64) for points in zip(*found, strict=True))
    return world, cams


class TestModesOf:
    def test_pixels_without_depth_or_modes_are_left_out(self) -> None:
        world, cam, weight = arrays()
        cam[3], weight[7] = np.nan, 0.0
        assert len(modes_of(world, cam, weight, None, 0.1)[0]) == 58

    def test_the_origin_lies_amid_the_modes_wherever_they_are(self) -> None:
        world, cam, weight = arrays()
        modes, origin = modes_of(world + np.float32(4096), cam, weight, None, 0.1)
        assert np.abs(origin - 4096).max() < 1.0
        real = modes.weight > 0
        assert np.abs(modes.world[real]).max() < 5.0 and modes.world[~real].min() > 1e6

    def test_the_spread_is_that_of_the_covariance(self) -> None:
        world, cam, weight = arrays()
        covariance = np.broadcast_to(np.diag([1e-4, 4e-4, 4e-4]), (60, 3, 3, 3)).astype(np.float32)
        modes, _ = modes_of(world, cam, weight, covariance, 0.1)
        np.testing.assert_allclose(modes.spread[modes.weight > 0], np.sqrt(3e-4), rtol=1e-5)


class TestHypotheses:
    def test_true_poses_are_among_them_and_chance_is_kept_low(self, modes: Modes, poses: list[Pose]) -> None:
        rotation, translation = modes.hypotheses(200, np.random.default_rng(0))
        errors = [
            pose_error(Pose.nearest(np.column_stack(pair)), poses[0])
            for pair in zip(rotation, translation, strict=True)
        ]
        assert len(errors) == 200
        assert sum(error.distance < 0.15 for error in errors) > 20  # one in 200 by chance, were the sides not compared

    def test_there_are_none_where_no_triangle_is_kept(self) -> None:
        world, cam, weight = arrays()
        rotation, translation = modes_of(100 * world, cam, weight, None, 0.1)[0].hypotheses(8, np.random.default_rng(0))
        assert rotation.shape == (0, 3, 3) and translation.shape == (0, 3)

    def test_draws_follow_the_weights(self) -> None:
        weight = np.array([[0.5, 0.0, 0.1], [0.3, 0.0, 0.1]], dtype=np.float32)
        drawn = drawn_by(weight, 1000, np.random.default_rng(0))
        np.testing.assert_allclose(np.bincount(drawn, minlength=6) / 1000, weight.ravel(), atol=0.002)


class TestEnergy:
    def test_it_counts_the_pixels_that_are_off(self, modes: Modes, poses: list[Pose]) -> None:
        expected = [len(modes) - len(inliers(modes, pose)[0]) for pose in poses]
        np.testing.assert_array_equal(modes.energy(*stacked(poses)), expected)
        assert expected[0] <= 30 < max(expected)

    def test_parts_add_up(self, modes: Modes, poses: list[Pose]) -> None:
        parts = [modes.only(np.arange(first, 60, 2)).energy(*stacked(poses)) for first in (0, 1)]
        np.testing.assert_array_equal(sum(parts), modes.energy(*stacked(poses)))

    def test_chunks_cover_everything_once(self) -> None:
        for count, each in ((10, 1), (10, 1 << 17), (10, 1 << 30), (0, 5)):
            covered = [index for some in chunks(count, each) for index in range(count)[some]]
            assert covered == list(range(count))


class TestRefined:
    def test_it_is_kabsch_on_the_inliers(self, modes: Modes, poses: list[Pose]) -> None:
        rotation, translation = modes.refined(*stacked(poses))
        for index, pose in enumerate(poses):
            expected = kabsch(*inliers(modes, pose))
            np.testing.assert_allclose(rotation[index], expected[0], atol=2e-5)
            np.testing.assert_allclose(translation[index], expected[1], atol=2e-5)

    def test_a_pose_of_fewer_than_three_inliers_stays(self, modes: Modes, poses: list[Pose]) -> None:
        away = [poses[0] @ Pose.exp([0, 0, 0, 50.0, 0, 0])]
        rotation, translation = modes.refined(*stacked(away))
        np.testing.assert_array_equal(rotation, stacked(away)[0])
        np.testing.assert_array_equal(translation, stacked(away)[1])
