"""The floors: what answering without looking scores, and what no retrieval can beat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placecell.align import Similarity, align_scene
from placecell.camera import Camera
from placecell.datasets import seven_scenes
from placecell.errors import SceneError
from placecell.estimate import Estimate
from placecell.floors import METRES_PER_DEGREE, constant, oracle
from placecell.metrics import evaluate
from placecell.pose import Pose, PoseError, pose_error
from placecell.scene import Frame, Scene, Split

G = Pose.exp([0.4, -1.1, 0.7, 5.0, -3.0, 2.0])


def scene_with(train: list[Pose], test: list[Pose]) -> Scene:
    def frames(split: Split, poses: list[Pose]) -> list[Frame]:
        return [Frame(f"{split}{i}.jpg", f"{split}{i}.jpg", "c", pose, split=split) for i, pose in enumerate(poses)]

    found = (*frames("train", train), *frames("test", test))
    return Scene("room", "by hand", True, found, {"c": Camera.from_focal(64, 48, 50.0)}, Path("nowhere"))


def random_scene(train: int = 30, test: int = 12, seed: int = 0) -> Scene:
    rng = np.random.default_rng(seed)

    def poses(count: int) -> list[Pose]:
        return [Pose.exp([*(0.4 * rng.standard_normal(3)), *rng.standard_normal(3)]) for _ in range(count)]

    return scene_with(poses(train), poses(test))


def poses_of(estimates: list[Estimate]) -> list[Pose]:
    """The poses; no floor ever refuses."""
    assert all(estimate.world_from_cam is not None and estimate.covariance is None for estimate in estimates)
    return [cast("Pose", estimate.world_from_cam) for estimate in estimates]


def cost(error: PoseError, per_degree: float) -> float:
    return error.distance + per_degree * error.angle_deg


class TestConstant:
    def test_it_is_one_pose_for_all(self) -> None:
        scene = random_scene()
        asked = scene.split("test").frames
        found = constant(scene, asked)
        assert [estimate.name for estimate in found] == [frame.name for frame in asked]
        assert all(pose == poses_of(found)[0] for pose in poses_of(found))

    def test_it_is_the_median_centre_and_the_middle_rotation_of_the_training_frames(self) -> None:
        turns = [Pose.exp([0, 0, angle, 0, 0, 0]).rotation for angle in (-0.2, 0.0, 0.5)]
        places = [[0.0, 0.0, 0.0], [1.0, 10.0, 1.0], [50.0, 2.0, 3.0]]
        scene = scene_with([Pose(r, t) for r, t in zip(turns, places, strict=True)], [Pose.exp([3, 0, 0, 9, 9, 9])])
        (pose,) = poses_of(constant(scene, scene.split("test").frames))
        np.testing.assert_allclose(pose.translation, [1.0, 2.0, 1.0])
        middle = np.arctan2(sum(map(np.sin, (-0.2, 0.0, 0.5))), sum(map(np.cos, (-0.2, 0.0, 0.5))))
        np.testing.assert_allclose(pose.rotation, Pose.exp([0, 0, middle, 0, 0, 0]).rotation, atol=1e-12)

    def test_it_looks_at_no_label_of_those_asked(self) -> None:
        scene = random_scene()
        asked = [replace(frame, world_from_cam=None) for frame in scene.split("test").frames]
        assert poses_of(constant(scene, asked)) == poses_of(constant(scene, scene.split("test").frames))


class TestOracle:
    @given(st.integers(0, 200), st.sampled_from([0.0, 0.01, METRES_PER_DEGREE, 1 / 3, 5.0]))
    def test_no_training_pose_is_better_by_its_own_cost(self, seed: int, per_degree: float) -> None:
        scene = random_scene(train=12, test=5, seed=seed)
        asked = scene.split("test").frames
        train = [frame.world_from_cam for frame in scene.split("train").posed]
        for pose, frame in zip(poses_of(oracle(scene, asked, per_degree=per_degree)), asked, strict=True):
            assert frame.world_from_cam is not None
            assert any(pose == other for other in train)
            least = min(cost(pose_error(other, frame.world_from_cam), per_degree) for other in train)
            assert cost(pose_error(pose, frame.world_from_cam), per_degree) == pytest.approx(least)

    def test_the_angle_counts_as_much_as_it_is_told(self) -> None:
        near_but_turned, far_but_straight = Pose.exp([0, 0.5, 0, 0, 0, 0]), Pose(np.eye(3), np.array([1.0, 0, 0]))
        scene = scene_with([near_but_turned, far_but_straight], [Pose.identity()])
        asked = scene.split("test").frames
        assert poses_of(oracle(scene, asked, per_degree=0.01)) == [near_but_turned]
        assert poses_of(oracle(scene, asked)) == [far_but_straight]

    def test_frames_without_a_label_are_left_out(self) -> None:
        scene = random_scene()
        asked = list(scene.split("test").frames)
        asked[2] = replace(asked[2], world_from_cam=None)
        names = [estimate.name for estimate in oracle(scene, asked)]
        assert names == [frame.name for index, frame in enumerate(asked) if index != 2]

    def test_a_frame_of_the_training_split_is_answered_by_itself(self) -> None:
        scene = random_scene()
        train = scene.split("train").frames
        assert poses_of(oracle(scene, train)) == [frame.world_from_cam for frame in train]


@pytest.mark.parametrize("floor", [constant, oracle])
class TestBoth:
    def test_moving_the_world_moves_the_answers(self, floor: Callable[..., list[Estimate]]) -> None:
        scene = random_scene()
        if floor is constant:  # a median of each coordinate is only moved by shifts and by swaps of the axes
            moved_from_world = Similarity(1.0, np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]]), np.array([4.0, -2, 9]))
        else:
            moved_from_world = Similarity(1.0, G.rotation, G.translation)
        moved = align_scene(scene, moved_from_world, metric=True, note="moved")
        here, there = (poses_of(floor(s, s.split("test").frames)) for s in (scene, moved))
        for before, after in zip(here, there, strict=True):
            np.testing.assert_allclose(after.matrix, moved_from_world.apply_pose(before).matrix, atol=1e-9)

    def test_a_scene_without_posed_training_frames_is_refused(self, floor: Callable[..., list[Estimate]]) -> None:
        scene = random_scene()
        bare = replace(
            scene,
            frames=tuple(
                replace(frame, world_from_cam=None) if frame.split == "train" else frame for frame in scene.frames
            ),
        )
        for empty in (bare, scene.split("test")):
            with pytest.raises(SceneError, match="room has no posed training frames"):
                floor(empty, scene.split("test").frames)

    def test_asked_for_nothing_it_answers_nothing(self, floor: Callable[..., list[Estimate]]) -> None:
        assert floor(random_scene(), []) == []


@pytest.mark.data
@pytest.mark.parametrize("labels", ["kinectfusion", "sfm"])
def test_on_the_red_kitchen_the_oracle_is_far_below_the_constant(data_root: Path, labels: seven_scenes.Labels) -> None:
    scene = seven_scenes.read(data_root / "redkitchen", labels=labels)
    asked = scene.split("test").posed
    assert len(asked) > 100
    truths = {frame.name: frame.world_from_cam for frame in asked if frame.world_from_cam is not None}
    best, blind = (evaluate(floor(scene, asked), truths).overall for floor in (oracle, constant))
    assert best.median_distance < 0.6 * blind.median_distance
    assert best.median_angle_deg < 0.6 * blind.median_angle_deg
    assert 0.05 < best.median_distance < 1.0
