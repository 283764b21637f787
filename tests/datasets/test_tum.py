from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import SceneMaker
from placecell.camera import Camera
from placecell.datasets import tum
from placecell.errors import FormatError
from placecell.scene import Scene

from .known import assert_known_camera, assert_same_scene, pictures

CAMERA = Camera(64, 48, 50.0, 51.0, 31.0, 25.0, "opencv", (0.1, -0.05, 0.001, 0.002))
KNOWN = "1 2 3 -0.5 0.5 -0.5 0.5"  # x y z qx qy qz qw


def make(root: Path, labels: str = f"10.004 {KNOWN}\n20.01 0 0 0 0 0 0 1\n") -> Path:
    pictures(root, ["rgb/10.0.png", "rgb/20.0.png", "rgb/30.0.png", "depth/10.01.png"], (640, 480))
    (root / "rgb.txt").write_text("# timestamp filename\n20.0 rgb/20.0.png\n10.0 rgb/10.0.png\n30.0 rgb/30.0.png\n")
    (root / "depth.txt").write_text("10.01 depth/10.01.png\n")
    (root / "groundtruth.txt").write_text("# timestamp tx ty tz qx qy qz qw\n" + labels)
    return root


def test_w_is_the_last_number_of_the_quaternion(tmp_path: Path) -> None:
    scene = tum.read(make(tmp_path))
    assert_known_camera(scene, scene.frames[0])


def test_pictures_take_the_label_nearest_in_time_or_none(tmp_path: Path) -> None:
    scene = tum.read(make(tmp_path))
    assert [(frame.name, frame.time_s) for frame in scene.frames] == [
        ("10.0.png", 10.0),
        ("20.0.png", 20.0),
        ("30.0.png", 30.0),
    ]
    assert [frame.world_from_cam is None for frame in scene.frames] == [False, False, True]
    assert "1 of 3 pictures have no label within 0.02 s, and no pose" in scene.notes
    assert len(tum.read(tmp_path, max_gap_s=0.005).posed) == 1


def test_depth_is_in_five_thousandths_of_a_metre_and_registered(tmp_path: Path) -> None:
    scene = tum.read(make(tmp_path))
    assert [frame.depth for frame in scene.frames] == ["depth/10.01.png", None, None]
    assert scene.depth_sensor is not None
    assert scene.depth_sensor.unit_m == pytest.approx(0.0002)
    assert scene.depth_sensor.camera == scene.cameras["rgb"]
    np.testing.assert_array_equal(scene.depth_sensor.cam_from_depth.matrix, np.eye(4))


def test_intrinsics_by_folder_name_with_pixel_centres_at_a_half(tmp_path: Path) -> None:
    first = tum.read(make(tmp_path / "rgbd_dataset_freiburg1_desk"))
    assert first.cameras["rgb"].fx == 517.3
    assert first.cameras["rgb"].cx == pytest.approx(318.6 + 0.5)
    assert first.cameras["rgb"].distortion == (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)
    third = tum.read(make(tmp_path / "rgbd_dataset_freiburg3_office"))
    assert third.cameras["rgb"].model == "pinhole"
    other = tum.read(make(tmp_path / "kitchen"))
    assert (other.cameras["rgb"].fx, other.cameras["rgb"].cx) == (525, 320)
    assert any("intrinsics are assumed" in note for note in other.notes)
    assert not any("intrinsics" in note for note in first.notes)


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ("10 1 2 3 0 0 0\n", r"groundtruth\.txt:2: the quaternion needs columns 5 to 8"),
        ("10 1 2 nan 0 0 0 1\n", r"groundtruth\.txt:2: the position is not finite"),
        ("10 1 2 3 0 0 0 3\n", r"groundtruth\.txt:2: not a rotation quaternion"),
    ],
)
def test_damage_is_named_with_its_line(tmp_path: Path, labels: str, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        tum.read(make(tmp_path, labels))


@pytest.mark.parametrize("timed", [True, False])
def test_round_trip(tmp_path: Path, scene_of: SceneMaker, timed: bool) -> None:
    scene = scene_of(names=("b.jpg", "c d.jpg", "a.jpg", "e.jpg"))
    if not timed:
        scene = replace(scene, frames=tuple(replace(frame, time_s=None) for frame in scene.frames))
    found = tum.read(tum.write(scene, tmp_path / "out"), camera=CAMERA)
    assert [frame.world_from_cam is None for frame in found.frames] == [False, False, False, True]
    assert [frame.time_s for frame in found.frames] == [index / 30 if timed else float(index) for index in range(4)]
    assert_same_scene(replace(found, frames=found.posed), scene)


def test_written_numbers_put_w_last(tmp_path: Path, scene_of: SceneMaker) -> None:
    scene: Scene = scene_of()
    table = np.loadtxt(tum.write(scene, tmp_path / "out") / "groundtruth.txt")
    for row, frame in zip(table, scene.posed, strict=True):
        assert frame.world_from_cam is not None
        np.testing.assert_allclose(row[1:4], frame.world_from_cam.translation)
        np.testing.assert_allclose(np.roll(row[4:], 1), frame.world_from_cam.quat_wxyz)
