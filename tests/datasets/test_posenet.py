from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from placecell.datasets import posenet, seven_scenes
from placecell.datasets.sfm_labels import picture_key, read_sfm_labels
from placecell.errors import FormatError, SceneError
from placecell.pose import Pose, pose_error

from .known import CAM_FROM_WORLD_QUAT_WXYZ, CENTRE, WORLD_FROM_CAM_QUAT_WXYZ, assert_known_camera, pictures

HEADER = "Visual Landmark Dataset V1\nImageFile, Camera Position [X Y Z W P Q R]\n\n"


def make(root: Path, name: str, quat_wxyz: str, ending: str = ".png") -> Path:
    pictures(root, [str(Path(name).with_suffix(ending))], (640, 480))
    (root / "place_train.txt").write_text(f"{HEADER}/{name} 1 2 3 {quat_wxyz}\n")
    return root


def test_cambridge_names_mean_world_to_camera(tmp_path: Path) -> None:
    scene = posenet.read(make(tmp_path, "seq1/frame00001.png", CAM_FROM_WORLD_QUAT_WXYZ))
    assert scene.labels == "sfm"
    assert_known_camera(scene, scene.frames[0])


def test_seven_scenes_names_mean_camera_to_world_of_the_depth_camera(tmp_path: Path) -> None:
    scene = posenet.read(make(tmp_path, "seq-01/frame-000000.color.png", WORLD_FROM_CAM_QUAT_WXYZ, ".jpg"))
    pose = scene.frames[0].world_from_cam
    assert scene.labels == "kinectfusion"
    assert scene.frames[0].image == "seq-01/frame-000000.color.jpg"
    assert pose is not None
    world_from_depth = pose @ seven_scenes.CAM_FROM_DEPTH
    np.testing.assert_allclose(world_from_depth.translation, CENTRE, atol=1e-12)
    np.testing.assert_allclose(world_from_depth.rotation, [[0, 0, 1], [-1, 0, 0], [0, -1, 0]], atol=1e-12)
    assert scene.camera_of(scene.frames[0]).fx == 525


def test_other_names_need_the_convention_said(tmp_path: Path) -> None:
    root = make(tmp_path, "photos/1.png", CAM_FROM_WORLD_QUAT_WXYZ)
    with pytest.raises(FormatError, match="say which"):
        posenet.read(root)
    scene = posenet.read(root, convention="cambridge", focal_px=500.0)
    assert_known_camera(scene, scene.frames[0])
    assert not scene.notes
    with pytest.raises(SceneError, match="known are 7scenes, cambridge"):
        posenet.read(root, convention="opengl")  # type: ignore[arg-type]


def test_train_and_val_lists_are_the_splits(tmp_path: Path) -> None:
    root = make(tmp_path, "seq1/frame00001.png", CAM_FROM_WORLD_QUAT_WXYZ)
    pictures(root, ["seq2/frame00001.png"])
    (root / "place_val.txt").write_text(f"{HEADER}seq2/frame00001.png 1 2 3 {CAM_FROM_WORLD_QUAT_WXYZ}\n")
    (root / "notes_test.txt").write_text("not a list\n")
    assert [(frame.name, frame.split) for frame in posenet.read(root).frames] == [
        ("seq1/frame00001.png", "train"),
        ("seq2/frame00001.png", "test"),
    ]


def test_a_picture_listed_twice(tmp_path: Path) -> None:
    root = make(tmp_path, "seq1/frame00001.png", CAM_FROM_WORLD_QUAT_WXYZ)
    path = root / "place_train.txt"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    with pytest.raises(FormatError, match=r"place_train\.txt:5: seq1/frame00001\.png is listed twice"):
        posenet.read(root)


@pytest.mark.data
def test_heads_lists_are_camera_to_world_and_swap_train_and_test(data_root: Path) -> None:
    labels, _ = read_sfm_labels(data_root / "peer_estimates/dslam/heads_ground_truth.txt")  # the official test frames
    listed, notes = posenet.read_list(data_root / "posenet_lists/heads_train.txt")
    assert "other way round" in notes[0]
    assert {picture_key(name) for name in listed} == set(labels)
    errors = [pose_error(pose, labels[picture_key(name)].world_from_cam) for name, pose in listed.items()]
    distance, angle_deg = np.max(errors, axis=0)
    assert distance < 0.0005
    assert angle_deg < 0.02
    other = posenet.read_list(data_root / "posenet_lists/heads_val.txt")[0]
    assert not {picture_key(name) for name in other} & set(labels)


@pytest.mark.data
def test_red_kitchen_list_is_the_raw_depth_camera(data_root: Path) -> None:
    listed, _ = posenet.read_list(data_root / "posenet_lists/redkitchen_train.txt")
    scene = seven_scenes.read(data_root / "redkitchen")
    as_it_is, read_as_color = [], []
    for frame in scene.frames:  # the data's ten sequences are the original first one, cut
        number = (int(frame.sequence[-2:]) - 1) * 100 + int(frame.name[13:19])
        pose = listed[f"seq-01/frame-{number:06d}.color.png"]
        assert frame.world_from_cam is not None
        as_it_is.append(pose_error(pose, frame.world_from_cam))
        raw: Pose = pose @ seven_scenes.CAM_FROM_DEPTH
        read_as_color.append(pose_error(raw, frame.world_from_cam))
    assert np.max(as_it_is, axis=0)[0] < 1e-5
    assert np.max(as_it_is, axis=0)[1] < 0.005
    np.testing.assert_allclose(np.median(read_as_color, axis=0), (0.0257, 0.67), atol=0.003)
