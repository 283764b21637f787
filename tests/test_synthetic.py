"""The rendered place: exact labels, walks that stay clear of the furniture, kinds to fail on."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.errors import PlacecellError
from placecell.images import load_query, read_depth, read_image
from placecell.pose import Pose, pose_error
from placecell.rendering import render, visible
from placecell.scene import Scene, centres
from placecell.synthetic import Walk, make_scene, make_video, room, sample_points, trajectory
from placecell.video import frames, probe

CAMERA = Camera.from_focal(640, 480, 525.0)
WALKS: tuple[Walk, ...] = ("walk", "visit")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("place") / "scene", train=8, test=3, size=(160, 120), seed=0)


def test_the_scene_is_whole(small: Scene) -> None:
    assert (small.labels, small.metric, small.unit) == ("synthetic", True, "m")
    assert [frame.split for frame in small.frames] == ["train"] * 8 + ["test"] * 3
    assert not any(small.image_path(frame).is_symlink() for frame in small.frames)
    assert Scene.load(small.root).fingerprint == small.fingerprint
    for frame in small.frames:
        query = load_query(small, frame, depth=True)
        assert query.defect is None
        assert query.depth_m is not None
        assert np.isfinite(query.depth_m).all()


def test_stored_depth_is_the_rendered_depth(small: Scene) -> None:
    frame = small.frames[3]
    assert frame.world_from_cam is not None
    assert small.depth_sensor is not None
    assert frame.depth is not None
    exact = render(room(0), small.camera_of(frame), frame.world_from_cam).depth_m
    stored = read_depth(small.root / frame.depth, small.depth_sensor)
    # A quaternion on disk moves an edge by less than a pixel, seldom across one.
    assert np.mean(np.abs(stored - exact) <= 0.000501) > 0.999


def test_observations_are_exact(small: Scene) -> None:
    points = small.points
    assert points is not None
    assert len(points) > 1000
    for index, frame in enumerate(small.frames):
        pose, seen = frame.world_from_cam, points.seen_frame == index
        assert pose is not None
        assert seen.sum() > 100
        world = points.points_world[points.seen_point[seen]]
        projected = small.camera_of(frame).project(pose.inv.apply(world))
        assert np.abs(projected - points.seen_px[seen]).max() < 1e-4
        # and what lies at that pixel is that point, not something before it
        depth_m = load_query(small, frame, depth=True).depth_m
        assert depth_m is not None
        column, row = points.seen_px[seen].astype(int).T
        away = np.abs(depth_m[row, column] - pose.inv.apply(world)[:, 2])
        assert np.median(away) < 0.01
        assert np.mean(away < 0.15) > 0.97


def test_pnp_recovers_the_poses(small: Scene) -> None:
    points = small.points
    assert points is not None
    for index, frame in enumerate(small.frames):
        seen = points.seen_frame == index
        world, pixels = points.points_world[points.seen_point[seen]], points.seen_px[seen].astype(np.float64)
        solved, rotvec, translation = cv2.solvePnP(world, pixels, small.camera_of(frame).matrix, None)
        assert solved
        estimate = Pose(cv2.Rodrigues(rotvec)[0], translation.ravel()).inv
        assert frame.world_from_cam is not None
        distance, angle_deg = pose_error(estimate, frame.world_from_cam)
        assert distance < 1e-6
        assert angle_deg < 1e-4


def test_the_same_seed_makes_the_same_scene(small: Scene, tmp_path: Path) -> None:
    again = make_scene(tmp_path / "again", train=8, test=3, size=(160, 120), seed=0)
    other = make_scene(tmp_path / "other", train=2, test=1, size=(160, 120), seed=1)
    assert again.fingerprint == small.fingerprint
    for frame in (small.frames[0], small.frames[-1]):
        np.testing.assert_array_equal(read_image(again.image_path(frame)), read_image(small.image_path(frame)))
    difference = read_image(other.image_path(other.frames[0])).astype(int) - read_image(
        small.image_path(small.frames[0])
    )
    assert np.abs(difference).mean() > 5


def test_an_existing_folder_is_left_alone(small: Scene) -> None:
    with pytest.raises(PlacecellError, match="exists"):
        make_scene(small.root, train=1, test=0, size=(64, 48))
    assert Scene.load(small.root).fingerprint == small.fingerprint


def test_kinds_to_fail_on(tmp_path: Path) -> None:
    size = (64, 48)
    turning = make_scene(tmp_path / "rotation", train=4, test=2, size=size, kind="rotation")
    assert np.ptp(centres(turning.frames), axis=0).max() < 1e-9
    black = make_scene(tmp_path / "black", train=2, test=1, size=size, kind="black")
    assert load_query(black, black.frames[0]).defect == "image is blank"
    single = make_scene(tmp_path / "single", train=5, test=1, size=size, kind="single")
    assert [frame.split for frame in single.frames] == ["train", "test"]


@pytest.mark.parametrize("kind", WALKS)
def test_walks_are_smooth_upright_and_clear_of_the_furniture(kind: Walk) -> None:
    for seed in range(5):
        walk = trajectory(kind, 60, seed)
        for here, there in pairwise([*walk, walk[0]]):  # a round: the last leads back to the first
            distance, angle_deg = pose_error(here, there)
            assert distance < 0.35
            assert angle_deg < 25
            assert here.rotation[2, 1] < -0.8  # the picture's down is the world's down
            assert 0.6 < here.translation[2] < 2.2
        # The surfaces before each camera keep their distance.
        for pose in walk[::6]:
            assert render(room(0), Camera.from_focal(40, 30, 33.0), pose).depth_m.min() > 0.25


def test_the_visit_is_another_walk_of_the_same_place() -> None:
    walk, visit = trajectory("walk", 40, 0), trajectory("visit", 15, 1)
    assert min(pose_error(a, b).distance for a in walk for b in visit) > 0.005
    points = sample_points(room(0), CAMERA, [*walk, *visit], count=8000)
    seen = np.zeros((len(points), 55), bool)
    seen[points.seen_point, points.seen_frame] = True
    mapped = seen[:, :40].sum(axis=1) >= 3
    for index in range(55):
        assert (seen[:, index] & mapped).sum() > max(80, 0.7 * seen[:, index].sum())
    for index in range(39):
        shared = (seen[:, index] & seen[:, index + 1]).sum()
        assert shared > 0.4 * seen[:, index].sum()


def test_rotation_and_still() -> None:
    turning, resting = trajectory("rotation", 12), trajectory("still", 4)
    assert all(pose_error(pose, turning[0]).distance == 0 for pose in turning)
    assert pose_error(turning[0], turning[6]).angle_deg > 150
    assert all(pose_error(pose, resting[0]) == (0, 0) for pose in resting)
    with pytest.raises(ValueError, match="unknown trajectory"):
        trajectory("fly", 3)  # type: ignore[arg-type]


def features(image: NDArray[np.uint8]) -> int:
    return len(cv2.SIFT_create().detect(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)))


def test_frames_hold_features_and_the_room_a_bland_side() -> None:
    counts = [features(render(room(0), CAMERA, pose, noise_seed=1).image) for pose in trajectory("walk", 8)]
    assert 500 < np.median(counts) < 2500
    assert min(counts) > 150
    assert max(counts) > 2 * min(counts)


def test_the_lamps_and_the_room_are_closed() -> None:
    # From the middle every ray ends on a surface, within the walls.
    for turn in range(6):
        pose = Pose(np.eye(3), np.array([3.0, 2.5, 1.5])) @ Pose.exp([0.0, turn, 0.5 * turn, 0, 0, 0])
        camera = Camera.from_focal(60, 60, 20.0)
        depth_m = render(room(0), camera, pose).depth_m
        assert np.isfinite(depth_m).all()
        columns, rows = np.meshgrid(np.arange(60) + 0.5, np.arange(60) + 0.5)
        points = pose.apply(camera.rays(np.stack([columns, rows], -1)) * depth_m[..., None])
        assert (points > -1e-4).all()
        assert (points < np.array([6.0, 5.0, 3.0]) + 1e-4).all()
    assert not visible(room(0), Pose(np.eye(3), np.array([3.0, 2.5, -1.0])), [[3.0, 2.5, 4.0]]).any()


def test_make_video_returns_the_pose_of_each_frame(tmp_path: Path) -> None:
    path = tmp_path / "walk.mp4"
    poses = make_video(path, count=12, size=(320, 240), fps=10.0)
    info = probe(path)
    assert (info.width, info.height, info.frames, info.fps) == (320, 240, 12, 10.0)
    camera = Camera.from_focal(320, 240, 0.82 * 320)
    for frame in frames(path, step=5):
        rendered = [render(room(0), camera, poses[other]).image for other in (frame.index, (frame.index + 1) % 12)]
        away, away_next = (float(np.abs(frame.image.astype(int) - image).mean()) for image in rendered)
        assert away < 8
        assert away < 0.5 * away_next
