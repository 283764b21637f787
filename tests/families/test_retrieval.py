"""Retrieval: the poses of training pictures, and nothing it does not know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from placecell.estimate import Query
from placecell.families.retrieval import Retrieval, RetrievalMap
from placecell.floors import oracle
from placecell.images import load_query, write_jpeg
from placecell.localizer import Localizer
from placecell.log import Silent
from placecell.pose import Pose, mean_pose, pose_error
from placecell.scene import Frame, Scene


@pytest.fixture
def built(room_map: Callable[[str], Localizer]) -> RetrievalMap:
    return cast("RetrievalMap", room_map("retrieval"))


def pose_of(frame: Frame) -> Pose:
    assert frame.world_from_cam is not None
    return frame.world_from_cam


def averaging(built: RetrievalMap, top: int) -> RetrievalMap:
    return replace(built, family=replace(built.family, top=top))


def test_a_training_picture_gets_its_own_pose(built: RetrievalMap, room_scene: Scene) -> None:
    train = room_scene.split("train").frames[::5]
    for estimate, frame in zip(built.localize([load_query(room_scene, f) for f in train]), train, strict=True):
        error = pose_error(estimate.world_from_cam, pose_of(frame))
        assert error.distance < 1e-9 and error.angle_deg < 1e-6


def test_an_answer_is_a_training_pose_and_no_better_than_the_oracle(
    built: RetrievalMap, room_scene: Scene, room_queries: list[Query]
) -> None:
    train = [pose_of(frame) for frame in room_scene.split("train").frames]
    asked = room_scene.split("test").frames
    for estimate, best, frame in zip(built.localize(room_queries), oracle(room_scene, asked), asked, strict=True):
        assert min(pose_error(estimate.world_from_cam, pose).distance for pose in train) < 1e-9
        errors = [pose_error(e.world_from_cam, pose_of(frame)) for e in (estimate, best)]
        ours, least = (error.distance + 0.1 * error.angle_deg for error in errors)
        assert ours >= least - 1e-9


def test_a_new_picture_is_found_near_by(built: RetrievalMap, room_scene: Scene, room_queries: list[Query]) -> None:
    """Near by in view: the room is six metres wide, and a wall is seen from anywhere in it."""
    frames = room_scene.split("test").frames
    turned = [
        pose_error(estimate.world_from_cam, pose_of(frame)).angle_deg
        for estimate, frame in zip(built.localize(room_queries), frames, strict=True)
    ]
    assert np.median(turned) < 45.0


def test_it_claims_no_certainty(built: RetrievalMap, room_queries: list[Query]) -> None:
    for estimate in built.localize(room_queries):
        assert estimate.covariance is None and estimate.confidence is None and estimate.inliers is None


def test_the_mean_of_several_lies_among_them(built: RetrievalMap, room_queries: list[Query]) -> None:
    similarity = built.vectors @ built.vlad.describe(built.family.sift.detect(room_queries[0].image).descriptors)
    nearest = np.argsort(-similarity)[:3]
    poses = [Pose.nearest(built.world_from_cam[index]) for index in nearest]
    expected = mean_pose(poses, similarity[nearest])
    (estimate,) = averaging(built, 3).localize(room_queries[:1])
    error = pose_error(estimate.world_from_cam, expected)
    assert error.distance < 1e-6 and error.angle_deg < 1e-4
    (alone,) = built.localize(room_queries[:1])
    assert pose_error(alone.world_from_cam, poses[0]).distance < 1e-9
    assert pose_error(alone.world_from_cam, expected).distance > 1e-3


def test_more_than_there_are_is_all_of_them(built: RetrievalMap, room_queries: list[Query]) -> None:
    count = len(built.vectors)
    (many,), (all_of_them,) = (averaging(built, top).localize(room_queries[:1]) for top in (10_000, count))
    assert many.world_from_cam is not None and many.world_from_cam == all_of_them.world_from_cam


def test_pictures_alike_that_look_opposite_ways_have_no_mean(room_scene: Scene) -> None:
    frame = room_scene.split("train").frames[0]
    behind = pose_of(frame) @ Pose.exp([0, np.pi, 0, 0, 0, 0])
    twins = (frame, replace(frame, name="twin.jpg", world_from_cam=behind))
    scene = replace(room_scene, frames=twins, points=None)
    built = Retrieval(top=2).build(scene, device="cpu", seed=0, log=Silent())
    (estimate,) = built.localize([load_query(room_scene, frame)])
    assert estimate.world_from_cam is None
    assert estimate.reason is not None and "opposite" in estimate.reason


@pytest.mark.parametrize("count", [1, 2])
def test_hardly_any_pictures_are_enough(room_scene: Scene, room_queries: list[Query], count: int) -> None:
    frames = room_scene.split("train").frames[:count]
    built = Retrieval().build(replace(room_scene, frames=frames, points=None), device="cpu", seed=0, log=Silent())
    (estimate,) = built.localize(room_queries[:1])
    assert min(pose_error(estimate.world_from_cam, pose_of(frame)).distance for frame in frames) < 1e-9


def test_a_blank_training_picture_is_passed_over_with_its_pose(room_scene: Scene, tmp_path: Path) -> None:
    """Where a slip would shift the poses against the vectors."""
    frames = room_scene.split("train").frames[:4]
    blank = np.full((360, 480, 3), 128, np.uint8)
    for index, frame in enumerate(frames):
        write_jpeg(tmp_path / f"{index}.jpg", blank if index == 1 else load_query(room_scene, frame).image)
    scene = replace(
        room_scene,
        frames=tuple(replace(frame, image=f"{index}.jpg") for index, frame in enumerate(frames)),
        root=tmp_path,
        points=None,
    )
    built = Retrieval().build(scene, device="cpu", seed=0, log=Silent())
    assert len(built.vectors) == len(built.world_from_cam) == 3
    for estimate, frame in zip(
        built.localize([load_query(scene, f) for f in scene.frames[2:]]), frames[2:], strict=True
    ):
        assert pose_error(estimate.world_from_cam, pose_of(frame)).distance < 1e-9
