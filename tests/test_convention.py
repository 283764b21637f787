"""Every wrong reading of poses is injected by hand and has to be found and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from placecell.camera import Camera
from placecell.convention import (
    HYPOTHESES,
    REMEDIES,
    STORED,
    Turn,
    evidence_of_pictures,
    evidence_of_points,
    turns_in_pictures,
)
from placecell.log import Silent
from placecell.points import PointCloud
from placecell.pose import Pose, pose_error, rotation_angle_deg
from placecell.scene import Frame, Scene

FLIP = np.diag([1.0, -1.0, -1.0])


def turned(pose: Pose, factor: float) -> Pose:
    angle = Rotation.from_matrix(pose.rotation).magnitude()
    axis = Rotation.from_matrix(pose.rotation).as_rotvec() / angle
    return Pose(Rotation.from_rotvec(factor * angle * axis).as_matrix(), pose.translation)


# What a careless reader makes of the true pose: written as the mistake happens, not as it is undone.
MISTAKES: dict[str, Callable[[Pose], Pose]] = {
    "inverted": lambda truth: Pose(truth.rotation.T, -truth.rotation.T @ truth.translation),
    "OpenGL axes": lambda truth: Pose(truth.rotation @ FLIP, truth.translation),
    "inverted and OpenGL axes": lambda truth: Pose.from_matrix(
        np.linalg.inv(truth.matrix @ np.diag([1.0, -1.0, -1.0, 1.0]))
    ),
    "rotation inverted, centre right": lambda truth: Pose(truth.rotation.T, truth.translation),
    "centre read as translation": lambda truth: Pose(truth.rotation.T, truth.translation).inv,
    "translation read as centre": lambda truth: Pose(truth.rotation, truth.inv.translation),
    "quaternion xyzw read as wxyz": lambda truth: Pose.from_quat_wxyz(
        Rotation.from_matrix(truth.rotation).as_quat(), truth.translation
    ),
    "quaternion wxyz read as xyzw": lambda truth: Pose(
        Rotation.from_quat(truth.quat_wxyz).as_matrix(), truth.translation
    ),
    "half the rotation angle": lambda truth: turned(truth, 0.5),
    "double the rotation angle": lambda truth: turned(truth, 2.0),
}


def misread(scene: Scene, mistake: Callable[[Pose], Pose]) -> Scene:
    frames = tuple(
        frame if frame.world_from_cam is None else replace(frame, world_from_cam=mistake(frame.world_from_cam))
        for frame in scene.frames
    )
    return replace(scene, frames=frames)


def walk(count: int = 40, seed: int = 0) -> Scene:
    """A camera that looks about while it walks, and the points it saw."""
    random = np.random.default_rng(seed)
    camera = Camera.from_focal(640, 480, 520.0)
    points_world = random.uniform(-6, 6, (2000, 3))
    # Less than 90 degrees from the world's axes: twice a larger angle wraps, and could not be told from another one.
    swings = np.sin(np.arange(count)[:, None] * (0.31, 0.23, 0.41) + (0.0, 1.0, 2.0))
    heading = 0.45 * swings + np.array([0.3, -0.5, 0.2])
    centres = np.cumsum(random.normal(scale=0.12, size=(count, 3)), axis=0) + np.array([0.5, 1.0, -0.5])
    frames = []
    seen: list[tuple[int, int, float, float]] = []
    for i in range(count):
        world_from_cam = Pose(Rotation.from_rotvec(heading[i]).as_matrix(), centres[i])
        frames.append(Frame(f"{i:04}.png", f"{i:04}.png", "c", world_from_cam, "walk"))
        pixels = camera.project(world_from_cam.inv.apply(points_world)) + random.normal(scale=0.5, size=(2000, 2))
        for j in np.flatnonzero(camera.contains(pixels))[:100]:
            seen.append((j, i, *pixels[j]))
    table = np.array(seen)
    points = PointCloud(
        points_world,
        np.zeros((2000, 3), np.uint8),
        table[:, 0].astype(np.int32),
        table[:, 1].astype(np.int32),
        table[:, 2:].astype(np.float32),
    )
    return Scene("walk", "by hand", True, tuple(frames), {"c": camera}, Path(), points=points)


def turns_of(scene: Scene, gap: int = 1, noise_deg: float = 0.5) -> list[Turn]:
    """What pictures would say of the walk: the true motion and some noise."""
    random = np.random.default_rng(1)
    turns = []
    for one, other in zip(scene.frames[:-gap], scene.frames[gap:], strict=True):
        assert one.world_from_cam is not None
        assert other.world_from_cam is not None
        motion = other.world_from_cam.inv @ one.world_from_cam
        noise = Rotation.from_rotvec(np.radians(noise_deg) * random.normal(size=3)).as_matrix()
        turns.append(
            Turn(one.name, other.name, noise @ motion.rotation, motion.translation / np.linalg.norm(motion.translation))
        )
    return turns


WALK = walk()
TURNS = turns_of(WALK)


def test_every_hypothesis_but_the_stored_one_has_a_mistake_and_a_remedy() -> None:
    assert set(HYPOTHESES) - {STORED} == set(MISTAKES) == set(REMEDIES)


@given(st.integers(0, 10_000))
def test_a_hypothesis_undoes_its_mistake(seed: int) -> None:
    random = np.random.default_rng(seed)
    rotvec = random.normal(size=3)
    rotvec *= random.uniform(0.1, 1.5) / np.linalg.norm(rotvec)  # doubled, still below pi
    truth = Pose(Rotation.from_rotvec(rotvec).as_matrix(), random.normal(size=3))
    for name, mistake in MISTAKES.items():
        error = pose_error(HYPOTHESES[name](mistake(truth)), truth)
        assert error.distance < 1e-9, name
        assert error.angle_deg < 1e-6, name


@given(st.integers(0, 10_000))
def test_the_angle_between_neighbours_is_the_same_in_every_convention_but_the_halved(seed: int) -> None:
    first, second = (Pose(Rotation.random(random_state=seed + i).as_matrix(), np.zeros(3)) for i in range(2))
    angle = rotation_angle_deg(first.rotation.T @ second.rotation)
    for name, mistake in MISTAKES.items():
        if "the rotation angle" not in name:
            between = rotation_angle_deg(mistake(first).rotation.T @ mistake(second).rotation)
            assert between == pytest.approx(angle, abs=1e-6), name


@pytest.mark.parametrize("name", [STORED, *MISTAKES])
def test_points_tell_every_convention(name: str) -> None:
    scene = WALK if name == STORED else misread(WALK, MISTAKES[name])
    evidence = evidence_of_points(scene, np.random.default_rng(0))
    assert evidence is not None
    assert evidence.verdict == name
    assert evidence.scores[name] > 0.9
    assert name == STORED or name in evidence.text


@pytest.mark.parametrize("name", [STORED, *MISTAKES])
def test_turning_pictures_tell_every_convention(name: str) -> None:
    scene = WALK if name == STORED else misread(WALK, MISTAKES[name])
    evidence = evidence_of_pictures(scene, TURNS)
    assert evidence.verdict == name
    assert evidence.scores[name] < 3
    assert evidence.count == len(TURNS)


def test_without_directions_what_has_the_same_rotations_counts_as_stored() -> None:
    turns = [turn._replace(direction=None) for turn in TURNS]
    assert evidence_of_pictures(misread(WALK, MISTAKES["translation read as centre"]), turns).verdict == STORED
    assert evidence_of_pictures(misread(WALK, MISTAKES["OpenGL axes"]), turns).verdict == "OpenGL axes"
    # Inverted poses and inverted rotations turn alike; which of the two it is stays open.
    assert evidence_of_pictures(misread(WALK, MISTAKES["inverted"]), turns).verdict is None


def test_rotations_of_noise_fit_no_convention() -> None:
    scene = misread(
        WALK, lambda truth: Pose(Rotation.random(random_state=id(truth) % 9973).as_matrix(), truth.translation)
    )
    evidence = evidence_of_pictures(scene, TURNS)
    assert evidence.verdict is None
    assert evidence.text.startswith("undecided")
    points = evidence_of_points(scene, np.random.default_rng(0))
    assert points is not None
    assert points.verdict is None


def test_too_few_turns_are_undecided() -> None:
    evidence = evidence_of_pictures(WALK, TURNS[:5])
    assert evidence.verdict is None
    assert "only 5 pairs" in evidence.text


def test_a_few_wrong_turns_do_not_matter() -> None:
    wild = [
        turn._replace(second_from_first=Rotation.random(random_state=i).as_matrix()) for i, turn in enumerate(TURNS)
    ]
    assert evidence_of_pictures(misread(WALK, MISTAKES["inverted"]), wild[:8] + TURNS[8:]).verdict == "inverted"


def test_a_scene_without_tracks_has_no_evidence_of_points() -> None:
    assert evidence_of_points(replace(WALK, points=None), np.random.default_rng(0)) is None


def test_missing_pictures_give_no_turns() -> None:
    assert turns_in_pictures(WALK, np.random.default_rng(0), Silent()) == []


def red_kitchen(data_root: Path, labels: str) -> Scene:
    root = data_root / "redkitchen"
    frames = []
    for split in ("test", "train"):
        for line in (root / f"sfm_poses_{split}.txt").read_text().splitlines():
            name, *numbers = line.split()
            values = np.array(numbers, dtype=np.float64)
            world_from_cam = Pose.from_quat_wxyz(values[:4], values[4:7]).inv
            if labels == "kinectfusion":
                world_from_cam = Pose.nearest(np.loadtxt(root / name.replace("color.jpg", "pose.txt")))
            frames.append(Frame(name, name, "c", world_from_cam, name.split("/")[0], split))  # type: ignore[arg-type]
    frames.sort(key=lambda frame: frame.name)
    return Scene("red kitchen", labels, True, tuple(frames), {"c": Camera.from_focal(640, 480, 525.5)}, root)


@pytest.fixture(scope="module", params=["sfm", "kinectfusion"])
def kitchen(request: pytest.FixtureRequest, data_root: Path) -> tuple[Scene, list[Turn]]:
    scene = red_kitchen(data_root, request.param)
    return scene, turns_in_pictures(scene, np.random.default_rng(0), Silent())


@pytest.mark.data
@pytest.mark.parametrize("name", [STORED, *MISTAKES])
def test_real_pictures_tell_every_convention(kitchen: tuple[Scene, list[Turn]], name: str) -> None:
    scene, turns = kitchen
    evidence = evidence_of_pictures(scene if name == STORED else misread(scene, MISTAKES[name]), turns)
    assert evidence.verdict == name


@pytest.mark.data
def test_pairs_chosen_by_wrong_poses_tell_as_much(data_root: Path) -> None:
    scene = misread(red_kitchen(data_root, "sfm"), MISTAKES["quaternion xyzw read as wxyz"])
    turns = turns_in_pictures(scene, np.random.default_rng(3), Silent())
    assert len(turns) >= 12
    assert evidence_of_pictures(scene, turns).verdict == "quaternion xyzw read as wxyz"
