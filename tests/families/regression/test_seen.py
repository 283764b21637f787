"""Which points each frame sees, from the points of a scene or from its depth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from placecell.anchor import Anchor
from placecell.camera import Camera
from placecell.errors import MapError
from placecell.families.regression.seen import depth_range, seen_points
from placecell.log import Silent
from placecell.pose import Pose
from placecell.scene import Frame, Scene

CAMERA = Camera.from_focal(64, 48, 52.0)


@pytest.fixture
def frames(room_scene: Scene) -> tuple[Frame, ...]:
    return room_scene.split("train").frames[3:7]


@pytest.fixture
def anchor(frames: tuple[Frame, ...]) -> Anchor:
    return Anchor.of(poses_of(frames))


def poses_of(frames: tuple[Frame, ...]) -> list[Pose]:
    return [frame.world_from_cam for frame in frames if frame.world_from_cam is not None]


def test_points_project_to_where_they_were_observed(
    room_scene: Scene, frames: tuple[Frame, ...], anchor: Anchor
) -> None:
    points, labels = seen_points(room_scene, frames, anchor, CAMERA, Silent()), anchor.labels(poses_of(frames))
    cloud = room_scene.points
    assert cloud is not None
    for index, frame in enumerate(frames):
        row = room_scene.frames.index(frame)
        observed = cloud.seen_px[cloud.seen_frame == row]
        points_cam = (points[index] - labels.centres[index]) @ labels.rotations[index]
        assert len(observed) == len(points[index]) > 50
        np.testing.assert_allclose(room_scene.camera_of(frame).project(points_cam), observed, atol=1.0)


def test_depth_stands_in_where_there_are_no_points(
    room_scene: Scene, frames: tuple[Frame, ...], anchor: Anchor
) -> None:
    without = replace(room_scene, points=None)
    found = seen_points(without, frames, anchor, CAMERA, Silent())
    known = seen_points(room_scene, frames, anchor, CAMERA, Silent())
    labels = anchor.labels(poses_of(frames))
    for index in range(len(frames)):
        assert 300 < len(found[index]) <= 24 * 32
        points_cam = (found[index] - labels.centres[index]) @ labels.rotations[index]
        assert CAMERA.contains(CAMERA.project(points_cam)).all()
        # They lie on the same walls as the points that the scene knows.
        distance = np.linalg.norm(known[index][:, None] - found[index], axis=-1).min(axis=1)
        assert np.median(distance) < 0.2


def test_a_frame_without_depth_sees_none(room_scene: Scene, frames: tuple[Frame, ...], anchor: Anchor) -> None:
    some = (replace(frames[0], depth=None), *frames[1:])
    found = seen_points(replace(room_scene, points=None), some, anchor, CAMERA, Silent())
    assert [len(points) > 0 for points in found] == [False, True, True, True]


def test_neither_is_an_error_that_says_what_to_do(room_scene: Scene, frames: tuple[Frame, ...], anchor: Anchor) -> None:
    bare = replace(room_scene, points=None, depth_sensor=None)
    with pytest.raises(MapError, match=r"neither points nor depth for the reprojection loss; choose another --loss"):
        seen_points(bare, frames, anchor, CAMERA, Silent())


class TestDepthRange:
    def test_holds_nearly_all_depths_along_the_line_of_sight(self) -> None:
        turned = Pose.exp([0.0, 0.4, 0.0, 1.0, 2.0, 3.0])
        points = turned.apply(np.column_stack([np.zeros(1001), np.zeros(1001), np.linspace(1, 3, 1001)]))
        found = depth_range([points.astype(np.float32)], turned.translation[None], turned.rotation[None])  # type: ignore[arg-type]
        assert found == pytest.approx((1.05, 2.95), abs=1e-3)

    def test_what_lies_behind_does_not_count(self) -> None:
        points = np.array([[0, 0, -5.0], [0, 0, 2.0], [0, 0, 4.0]], np.float32)
        assert depth_range([points], np.zeros((1, 3), np.float32), np.eye(3, dtype=np.float32)[None]) == pytest.approx(
            (2.05, 3.95)
        )

    def test_before_a_bare_wall_near_and_far_stay_apart(self) -> None:
        wall = np.array([[-1, 0, 2.0], [0, 0, 2.0], [1, 0, 2.0]], np.float32)
        found = depth_range([wall], np.zeros((1, 3), np.float32), np.eye(3, dtype=np.float32)[None])
        assert found is not None and found[0] == 2.0 and 2.01 < found[1] < 2.1

    def test_nothing_seen_has_none(self) -> None:
        none = np.zeros((0, 3), np.float32)
        assert depth_range([none], np.zeros((1, 3), np.float32), np.eye(3, dtype=np.float32)[None]) is None
        assert depth_range([], np.zeros((0, 3), np.float32), np.zeros((0, 3, 3), np.float32)) is None
