"""Poses as a network learns them: about the anchor, and the same to the bit in any world."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from placecell.anchor import Anchor
from placecell.pose import Pose


def walk(count: int = 20, spread: float = 0.5, seed: int = 0) -> list[Pose]:
    rng = np.random.default_rng(seed)
    return [Pose.exp([*rng.normal(0, 0.3, 3), *rng.normal(0, spread, 3)]) for _ in range(count)]


class TestAnchor:
    def test_labels_lie_about_zero_with_the_scale_for_their_size(self) -> None:
        world_from_room = Pose.exp([0.5, -1.0, 2.0, 100.0, -50.0, 7.0])
        poses = [world_from_room @ pose for pose in walk()]
        anchor = Anchor.of(poses)
        labels = anchor.labels(poses)
        np.testing.assert_allclose(labels.centres.mean(axis=0), 0, atol=1e-6)
        assert np.sqrt((labels.centres**2).sum(axis=1).mean()) == pytest.approx(anchor.scale, rel=1e-5)
        assert labels.centres.dtype == labels.rotations.dtype == np.float32
        assert np.trace(labels.rotations, axis1=1, axis2=2).min() > 0  # far from half a turn

    def test_a_label_is_where_the_anchor_sees_the_camera(self) -> None:
        poses = walk()
        anchor = Anchor.of(poses)
        labels = anchor.labels(poses)
        for pose, centre, rotation in zip(poses, labels.centres, labels.rotations, strict=True):
            again = anchor.world_from_anchor @ Pose.nearest(np.column_stack([rotation, centre]))
            np.testing.assert_allclose(again.matrix, pose.matrix, atol=1e-6)

    def test_points_move_with_the_labels(self) -> None:
        """What a camera sees of a point does not depend on the frame that both are told in."""
        poses, points_world = walk(), np.random.default_rng(1).normal(0, 2, (50, 3))
        anchor = Anchor.of(poses)
        labels, points = anchor.labels(poses), anchor.points(points_world)
        for pose, centre, rotation in zip(poses, labels.centres, labels.rotations, strict=True):
            np.testing.assert_allclose((points - centre) @ rotation, pose.inv.apply(points_world), atol=5e-6)

    @pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
    def test_another_world_changes_no_bit_of_them(self, size: float) -> None:
        poses, moved_from_world = walk(200, size), Pose.exp([0.4, -1.1, 0.7, 5 * size, -3 * size, 2 * size])
        moved = [moved_from_world @ pose for pose in poses]
        here, there = Anchor.of(poses), Anchor.of(moved)
        assert here.scale == there.scale
        np.testing.assert_array_equal(here.labels(poses).centres, there.labels(moved).centres)
        np.testing.assert_array_equal(here.labels(poses).rotations, there.labels(moved).rotations)
        points = np.random.default_rng(1).normal(0, 2 * size, (500, 3))
        np.testing.assert_array_equal(here.points(points), there.points(moved_from_world.apply(points)))

    def test_rounding_costs_less_than_float32_does(self) -> None:
        poses = walk(200)
        anchor = Anchor.of(poses)
        exact = np.array([(anchor.world_from_anchor.inv @ pose).translation for pose in poses])
        assert np.abs(anchor.labels(poses).centres - exact).max() <= 2**-22 * anchor.scale

    def test_one_place_has_the_scale_one(self) -> None:
        poses = [Pose(Rotation.from_rotvec([0, angle, 0]).as_matrix(), np.ones(3)) for angle in (0.0, 0.1, 0.2)]
        assert Anchor.of(poses).scale == 1.0
        assert Anchor.of(poses[:1]).world_from_anchor == poses[0]

    def test_rotations_without_a_mean_lend_the_first(self) -> None:
        opposed = [np.eye(3), np.diag([1.0, -1.0, -1.0]), np.diag([-1.0, 1.0, -1.0]), np.diag([-1.0, -1.0, 1.0])]
        poses = [Pose(rotation, np.array([index, 0.0, 0.0])) for index, rotation in enumerate(opposed)]
        anchor = Anchor.of(poses)
        np.testing.assert_array_equal(anchor.world_from_anchor.rotation, opposed[0])
        np.testing.assert_allclose(anchor.world_from_anchor.translation, [1.5, 0, 0])
