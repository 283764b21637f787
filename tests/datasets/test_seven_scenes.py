from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from placecell.datasets import seven_scenes
from placecell.errors import FormatError, SceneError
from placecell.pose import Pose, pose_error, rotation_angle_deg
from placecell.scene import Scene

from .known import (
    CAM_FROM_WORLD_QUAT_WXYZ,
    CAM_FROM_WORLD_TRANSLATION,
    POINT,
    WORLD_FROM_CAM_MATRIX,
    assert_known_camera,
    pictures,
)


def make(root: Path, *, ending: str = "png", sequences: tuple[str, ...] = ("seq-01", "seq-12")) -> Path:
    for sequence in sequences:
        for number in range(2):
            stem = f"{sequence}/frame-{number:06d}"
            pictures(root, [f"{stem}.color.{ending}", f"{stem}.depth.png"], (640, 480))
            (root / f"{stem}.pose.txt").write_text(WORLD_FROM_CAM_MATRIX)
    (root / "TrainSplit.txt").write_text("sequence1\r\n")
    (root / "TestSplit.txt").write_text("sequence12")
    for split, sequence in (("train", "seq-01"), ("test", "seq-12")):
        text = f"{sequence}/frame-00000{{}}.color.png {CAM_FROM_WORLD_QUAT_WXYZ} {CAM_FROM_WORLD_TRANSLATION} 526.25\n"
        (root / f"sfm_poses_{split}.txt").write_text(text.format(0) + text.format(1))
    return root


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_frames_of_both_endings(tmp_path: Path, ending: str) -> None:
    scene = seven_scenes.read(make(tmp_path, ending=ending))
    assert [(frame.name, frame.split, frame.sequence) for frame in scene.frames] == [
        (f"seq-01/frame-000000.color.{ending}", "train", "seq-01"),
        (f"seq-01/frame-000001.color.{ending}", "train", "seq-01"),
        (f"seq-12/frame-000000.color.{ending}", "test", "seq-12"),
        (f"seq-12/frame-000001.color.{ending}", "test", "seq-12"),
    ]
    assert scene.frames[2].depth == "seq-12/frame-000000.depth.png"
    assert all(scene.image_path(frame).is_file() for frame in scene.frames)


def test_kinectfusion_poses_are_of_the_depth_camera(tmp_path: Path) -> None:
    scene = seven_scenes.read(make(tmp_path))
    pose, sensor = scene.frames[0].world_from_cam, scene.depth_sensor
    assert pose is not None
    assert sensor is not None
    # By hand: in the depth camera the point is at (1, 0.5, 4); the calibration, rounded, moves it to the colour camera.
    by_hand = (
        0.999965 * 1 + 0.0026765 * 0.5 - 0.0079041 * 4 - 0.0255589,
        -0.0027409 * 1 + 0.999963 * 0.5 - 0.0081505 * 4 + 0.0001011,
        0.0078820 * 1 + 0.0081718 * 0.5 + 0.9999355 * 4 + 0.0020318,
    )
    np.testing.assert_allclose(pose.inv.apply(POINT), by_hand, atol=1e-5)
    np.testing.assert_allclose(sensor.cam_from_depth.apply([1, 0.5, 4]), by_hand, atol=1e-5)
    expected = (525 * by_hand[0] / by_hand[2] + 320, 525 * by_hand[1] / by_hand[2] + 240)
    np.testing.assert_allclose(scene.cameras["color"].project(pose.inv.apply(POINT)), expected, atol=2e-3)


def test_the_calibration_turns_and_moves_as_far_as_published(tmp_path: Path) -> None:
    assert rotation_angle_deg(seven_scenes.CAM_FROM_DEPTH.rotation) == pytest.approx(0.67, abs=0.005)
    assert np.linalg.norm(seven_scenes.CAM_FROM_DEPTH.inv.translation) == pytest.approx(0.0257, abs=1e-4)


def test_depth_has_a_camera_of_its_own_and_two_invalid_values(tmp_path: Path) -> None:
    sensor = seven_scenes.read(make(tmp_path)).depth_sensor
    assert sensor is not None
    assert (sensor.camera.fx, sensor.camera.fy, sensor.camera.cx, sensor.camera.cy) == (585, 585, 320, 240)
    assert sensor.invalid == (0, 65535)
    assert sensor.unit_m == 0.001


def test_sfm_labels_are_of_the_colour_camera(tmp_path: Path) -> None:
    scene = seven_scenes.read(make(tmp_path, ending="jpg"), labels="sfm")
    assert scene.labels == "sfm"
    for frame in scene.frames:
        assert_known_camera(scene, frame)
        assert scene.camera_of(frame).fx == 526.25


def test_sfm_labels_of_another_folder_named_by_scene(tmp_path: Path) -> None:
    root = make(tmp_path / "chess")
    (tmp_path / "pgt").mkdir()
    for split in ("train", "test"):
        (root / f"sfm_poses_{split}.txt").rename(tmp_path / "pgt" / f"chess_{split}.txt")
    with pytest.raises(FormatError, match=r"neither sfm_poses_train\.txt nor chess_train\.txt"):
        seven_scenes.read(root, labels="sfm")
    assert len(seven_scenes.read(root, labels="sfm", labels_folder=tmp_path / "pgt").posed) == 4


def test_a_frame_the_sfm_labels_leave_out_has_no_pose(tmp_path: Path) -> None:
    root = make(tmp_path)
    labels = (root / "sfm_poses_train.txt").read_text().splitlines()
    (root / "sfm_poses_train.txt").write_text(labels[1] + "\n")
    scene = seven_scenes.read(root, labels="sfm")
    assert [frame.world_from_cam is None for frame in scene.frames] == [True, False, False, False]
    assert any("1 of 4 frames have no SfM label" in note for note in scene.notes)


def test_one_scene_has_one_set_of_labels(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="known are kinectfusion, sfm"):
        seven_scenes.read(make(tmp_path), labels="both")  # type: ignore[arg-type]


def test_a_split_that_names_a_missing_sequence(tmp_path: Path) -> None:
    root = make(tmp_path)
    (root / "TestSplit.txt").write_text("sequence12\nsequence7\n")
    with pytest.raises(FormatError, match=r"TestSplit\.txt:2: sequence 7 is missing: no folder seq-07"):
        seven_scenes.read(root)


def test_a_sequence_in_both_splits_is_an_error(tmp_path: Path) -> None:
    root = make(tmp_path)
    (root / "TestSplit.txt").write_text("sequence12\nsequence1\n")
    with pytest.raises(FormatError, match=r"TestSplit\.txt:2: seq-01 is in TrainSplit\.txt too"):
        seven_scenes.read(root)


@pytest.mark.parametrize(("damage", "why"), [("nan 0 1 1", "not finite"), ("0 0 1", "needs columns")])
def test_a_damaged_pose_file_is_named(tmp_path: Path, damage: str, why: str) -> None:
    root = make(tmp_path)
    path = root / "seq-12/frame-000001.pose.txt"
    path.write_text(WORLD_FROM_CAM_MATRIX.replace("0 0 1 1", damage, 1))
    with pytest.raises(FormatError, match=rf"frame-000001\.pose\.txt:1: .*{why}"):
        seven_scenes.read(root)


@pytest.fixture(scope="module")
def kitchen(data_root: Path) -> tuple[Scene, Scene]:
    root = data_root / "redkitchen"
    return seven_scenes.read(root), seven_scenes.read(root, labels="sfm")


@pytest.mark.data
def test_red_kitchen_is_whole_under_both_labels(kitchen: tuple[Scene, Scene]) -> None:
    for scene in kitchen:
        assert (len(scene.posed), len(scene.split("train").frames), len(scene.split("test").frames)) == (1000, 700, 300)
        assert all(frame.depth is not None for frame in scene.frames)
        assert not scene.notes
    assert kitchen[0].fingerprint != kitchen[1].fingerprint


@pytest.mark.data
def test_red_kitchen_labels_disagree_by_ten_centimetres(kitchen: tuple[Scene, Scene]) -> None:
    distance, _ = _median_error(kitchen, Pose.identity())
    assert 0.08 < distance < 0.12


@pytest.mark.data
def test_the_calibration_brings_red_kitchen_nearer_to_the_sfm_rotations(kitchen: tuple[Scene, Scene]) -> None:
    calibration = seven_scenes.CAM_FROM_DEPTH
    _, calibrated = _median_error(kitchen, Pose.identity())
    _, raw = _median_error(kitchen, calibration)
    _, other_way_round = _median_error(kitchen, calibration @ calibration)
    assert calibrated < raw - 0.3 < other_way_round - 0.6


def _median_error(kitchen: tuple[Scene, Scene], cam_from_other: Pose) -> tuple[float, float]:
    errors = []
    for ours, sfm in zip(kitchen[0].frames, kitchen[1].frames, strict=True):
        assert ours.name == sfm.name
        if ours.world_from_cam is not None and sfm.world_from_cam is not None:
            errors.append(pose_error(ours.world_from_cam @ cam_from_other, sfm.world_from_cam))
    distance, angle = np.median(errors, axis=0)
    assert math.isfinite(distance)
    return float(distance), float(angle)
