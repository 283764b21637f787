from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from placecell.datasets import cambridge
from placecell.errors import FormatError

from .known import CAM_FROM_WORLD_QUAT_WXYZ, POINT, assert_known_camera, pictures

HEADER = "Visual Landmark Dataset V1\nImageFile, Camera Position [X Y Z W P Q R]\n\n"
KNOWN = f"1 2 3 {CAM_FROM_WORLD_QUAT_WXYZ}"
NVM = f"""NVM_V3

3
seq2/frame00001.jpg 30 {CAM_FROM_WORLD_QUAT_WXYZ} 1 2 3 0 0
elsewhere.jpg 99 1 0 0 0 0 0 0 0 0
seq1/frame00001.jpg 40 {CAM_FROM_WORLD_QUAT_WXYZ} 1 2 3 0 0

1
5 1 2.5 10 20 30 3 0 0 7.5 3.75 1 0 0 0 2 0 10 5
"""


def make(root: Path, train: str = f"seq1/frame00001.png {KNOWN}\n") -> Path:
    pictures(root, ["seq1/frame00001.png", "seq1/frame00002.png", "seq2/frame00001.png"])
    (root / "dataset_train.txt").write_text(HEADER + train)
    (root / "dataset_test.txt").write_text(HEADER + f"seq2/frame00001.png {KNOWN}\n")
    return root


def test_position_is_the_centre_and_rotation_world_to_camera(tmp_path: Path) -> None:
    scene = cambridge.read(make(tmp_path))
    assert [(frame.split, frame.sequence) for frame in scene.frames] == [("train", "seq1"), ("test", "seq2")]
    for frame in scene.frames:
        assert_known_camera(scene, frame)


def test_focal_lengths_are_in_the_nvm_file_which_calls_png_jpg(tmp_path: Path) -> None:
    root = make(tmp_path)
    (root / "reconstruction.nvm").write_text(NVM)
    scene = cambridge.read(root)
    assert [scene.camera_of(frame).fx for frame in scene.frames] == [40, 30]
    assert not scene.notes
    assert scene.points is not None
    np.testing.assert_array_equal(scene.points.seen_frame, [1, 0])
    for row, index in enumerate(scene.points.seen_frame):
        frame = scene.frames[index]
        assert frame.world_from_cam is not None
        seen = scene.camera_of(frame).project(frame.world_from_cam.inv.apply(POINT))
        np.testing.assert_allclose(seen, scene.points.seen_px[row], atol=1e-5)


def test_an_assumed_focal_length_is_noted_and_a_given_one_is_not(tmp_path: Path) -> None:
    root = make(tmp_path)
    assert any("focal length of 2 pictures is assumed" in note for note in cambridge.read(root).notes)
    scene = cambridge.read(root, focal_px=55.0)
    assert not scene.notes
    assert {camera.fx for camera in scene.cameras.values()} == {55.0}


def test_long_quaternions_are_normalised_and_counted(tmp_path: Path) -> None:
    lines = "seq1/frame00001.png 1 2 3 1.0 1.0 -1.0 1.0\nseq1/frame00002.png 1 2 3 0.52 0.52 -0.52 0.52\n"
    scene = cambridge.read(make(tmp_path, lines), focal_px=50.0)
    assert_known_camera(scene, scene.frames[0])
    assert scene.notes == ("dataset_train.txt: 2 quaternions not of unit length normalised, worst 2.000 in line 4",)


def test_outlier_positions_are_kept(tmp_path: Path) -> None:
    far = "3.1e9 -1.4e8 -1.2e9"
    scene = cambridge.read(make(tmp_path, f"seq1/frame00001.png {far} {CAM_FROM_WORLD_QUAT_WXYZ}\n"))
    assert scene.frames[0].world_from_cam is not None
    np.testing.assert_array_equal(scene.frames[0].world_from_cam.translation, [3.1e9, -1.4e8, -1.2e9])


def test_the_sign_of_a_quaternion_means_nothing(tmp_path: Path) -> None:
    scene = cambridge.read(make(tmp_path, "seq1/frame00001.png 1 2 3 -0.5 -0.5 0.5 -0.5\n"))
    assert_known_camera(scene, scene.frames[0])


def test_damage_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"dataset_train\.txt:4: the quaternion needs columns 5 to 8"):
        cambridge.read(make(tmp_path, "seq1/frame00001.png 1 2 3 0.5 0.5 -0.5\n"))
    with pytest.raises(FormatError, match=r"dataset_train\.txt:4: the camera centre is not finite"):
        cambridge.read(make(tmp_path, f"seq1/frame00001.png 1 nan 3 {CAM_FROM_WORLD_QUAT_WXYZ}\n"))
    with pytest.raises(FormatError, match=r"frame00009\.png: missing, as are 1 of the 2"):
        cambridge.read(make(tmp_path, f"seq1/frame00009.png {KNOWN}\n"))
    (tmp_path / "dataset_train.txt").write_text("something else\n")
    with pytest.raises(FormatError, match=r"dataset_train\.txt:1: a list begins with 'Visual Landmark Dataset'"):
        cambridge.read(tmp_path)
