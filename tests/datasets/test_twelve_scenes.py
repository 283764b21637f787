from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from placecell.datasets import twelve_scenes
from placecell.errors import FormatError

from .known import (
    CAM_FROM_WORLD_QUAT_WXYZ,
    CAM_FROM_WORLD_TRANSLATION,
    WORLD_FROM_CAM_MATRIX,
    assert_known_camera,
    pictures,
)

INFO = """m_versionNumber = 4
m_sensorName = StructureSensor
m_colorWidth = 1296
m_colorHeight = 968
m_depthWidth = 640
m_depthHeight = 480
m_depthShift = 1000
m_calibrationColorIntrinsic = 1158.3 0 649 0 0 1153.53 483.5 0 0 0 1 0 0 0 0 1
m_calibrationColorExtrinsic = 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1
m_calibrationDepthIntrinsic = 572 0 320 0 0 572 240 0 0 0 1 0 0 0 0 1
m_calibrationDepthExtrinsic = 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1
m_frames.size = 4
"""
LOST = "-1.#INF -1.#INF -1.#INF -1.#INF\n" * 4


def make(tmp_path: Path) -> Path:
    root = tmp_path / "apt1" / "kitchen"
    for number in range(4):
        pictures(root, [f"data/frame-{number:06d}.color.jpg"], (1296, 968))
        pictures(root, [f"data/frame-{number:06d}.depth.png"], (640, 480))
        (root / f"data/frame-{number:06d}.pose.txt").write_text(WORLD_FROM_CAM_MATRIX)
    (root / "info.txt").write_text(INFO)
    (root / "split.txt").write_text(
        "sequence0 [frames=1]  [start=0 ; end=0]\nsequence1 [frames=3]  [start=1 ; end=3]\n"
    )
    return root


def test_first_sequence_is_the_test_split(tmp_path: Path) -> None:
    scene = twelve_scenes.read(make(tmp_path))
    assert scene.name == "apt1_kitchen"
    assert [frame.split for frame in scene.frames] == ["test", "train", "train", "train"]
    assert [frame.sequence for frame in scene.frames] == ["sequence0", "sequence1", "sequence1", "sequence1"]
    for frame in scene.frames:
        assert_known_camera(scene, frame)


def test_colour_and_depth_differ_in_size(tmp_path: Path) -> None:
    scene = twelve_scenes.read(make(tmp_path))
    camera, sensor = scene.cameras["color"], scene.depth_sensor
    assert sensor is not None
    assert (camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy) == (
        *(1296, 968),
        *(1158.3, 1153.53, 649, 483.5),
    )
    assert (sensor.camera.width, sensor.camera.height, sensor.camera.fx) == (640, 480, 572)
    np.testing.assert_array_equal(sensor.cam_from_depth.matrix, np.eye(4))


def test_infinite_poses_are_left_out(tmp_path: Path) -> None:
    root = make(tmp_path)
    (root / "data/frame-000001.pose.txt").write_text(LOST)
    scene = twelve_scenes.read(root)
    assert [frame.name for frame in scene.frames] == [f"data/frame-00000{n}.color.jpg" for n in (0, 2, 3)]
    assert scene.notes == ("1 frames without a finite pose left out",)


def test_sfm_labels_know_frames_the_original_ones_lost(tmp_path: Path) -> None:
    root = make(tmp_path)
    (root / "data/frame-000001.pose.txt").write_text(LOST)
    for split, numbers in (("test", (0,)), ("train", (1, 2, 3))):
        text = "".join(
            f"data/frame-00000{n}.color.jpg {CAM_FROM_WORLD_QUAT_WXYZ} {CAM_FROM_WORLD_TRANSLATION} 1150\n"
            for n in numbers
        )
        (root / f"apt1_kitchen_{split}.txt").write_text(text)
    scene = twelve_scenes.read(root, labels="sfm")
    assert len(scene.posed) == 4
    assert_known_camera(scene, scene.frames[1])
    assert {(camera.width, camera.fx) for camera in scene.cameras.values()} == {(1296, 1150.0)}


def test_a_split_that_does_not_count_right(tmp_path: Path) -> None:
    root = make(tmp_path)
    (root / "split.txt").write_text("sequence0 [frames=2]  [start=0 ; end=0]\n")
    with pytest.raises(FormatError, match=r"split\.txt:1: frames 0 to 0 are 1, not 2"):
        twelve_scenes.read(root)
    (root / "split.txt").write_text("sequence0 [frames=2]  [start=0 ; end=1]\n")
    with pytest.raises(FormatError, match="frame 2 is in none of its sequences"):
        twelve_scenes.read(root)


def test_an_info_file_without_focal_length(tmp_path: Path) -> None:
    root = make(tmp_path)
    (root / "info.txt").write_text(INFO.replace("m_calibrationColorIntrinsic", "other"))
    with pytest.raises(FormatError, match=r"info\.txt: no m_calibrationColorIntrinsic"):
        twelve_scenes.read(root)
