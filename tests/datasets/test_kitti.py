from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from placecell.datasets import kitti
from placecell.errors import FormatError, SceneError

from .known import CENTRE, RIGHT, assert_known_camera, pictures

FX, CX, CY, BASELINE = 50.0, 30.0, 20.0, 0.5


def make(root: Path, sequences: tuple[str, ...] = ("00",)) -> Path:
    pose = "0 0 1 1 -1 0 0 2 0 -1 0 3"
    for sequence in sequences:
        folder = root / "sequences" / sequence
        for camera in (0, 3):
            pictures(folder, [f"image_{camera}/000000.png", f"image_{camera}/000001.png"])
        # Camera 3 stands 0.5 m to the right of camera 0: P3[0, 3] = -fx * 0.5.
        row = "{} {} 0 {} {} 0 {} {} 0 0 0 1 0\n"
        (folder / "calib.txt").write_text(
            row.format("P0:", FX, CX, 0.0, FX, CY) + row.format("P3:", FX, CX, -FX * BASELINE, FX, CY)
        )
        (folder / "times.txt").write_text("0.0\n0.1\n")
        (root / "poses").mkdir(exist_ok=True)
        (root / "poses" / f"{sequence}.txt").write_text(f"{pose}\n{pose}\n")
    return root


def test_poses_are_camera_to_world_of_camera_0(tmp_path: Path) -> None:
    scene = kitti.read(make(tmp_path), camera=0)
    assert_known_camera(scene, scene.frames[0])
    assert [frame.time_s for frame in scene.frames] == [0.0, 0.1]
    assert scene.frames[1].image == "sequences/00/image_0/000001.png"


def test_other_cameras_stand_beside_it(tmp_path: Path) -> None:
    pose = kitti.read(make(tmp_path), camera=3).frames[0].world_from_cam
    assert pose is not None
    np.testing.assert_allclose(pose.translation, CENTRE + BASELINE * RIGHT, atol=1e-12)


def test_principal_point_moves_to_pixel_centres_at_a_half(tmp_path: Path) -> None:
    camera = kitti.read(make(tmp_path), camera=0).cameras["P0"]
    assert (camera.fx, camera.cx, camera.cy) == (FX, CX + 0.5, CY + 0.5)


def test_each_sequence_is_a_world_of_its_own(tmp_path: Path) -> None:
    root = make(tmp_path, ("00", "07"))
    with pytest.raises(SceneError, match="has the sequences 00, 07; say which one"):
        kitti.read(root, camera=0)
    assert kitti.read(root, sequence="07", camera=0).name == "kitti-07"
    with pytest.raises(SceneError, match="00 to 10 only"):
        kitti.read(root, sequence="11")


def test_wrong_counts_and_damage(tmp_path: Path) -> None:
    root = make(tmp_path)
    path = root / "poses/00.txt"
    path.write_text("0 0 1 1 -1 0 0 2 0 -1 0 3\n")
    with pytest.raises(FormatError, match=r"00\.txt: 1 poses for the 2 pictures"):
        kitti.read(root, camera=0)
    path.write_text("0 0 1 1 -1 0 0 2 0 -1 0 3\n0 0 1 1 -1 0 0 2 0 -1 0\n")
    with pytest.raises(FormatError, match=r"00\.txt:2: the pose needs columns 1 to 12"):
        kitti.read(root, camera=0)
    path.write_text("0 0 1 1 -1 0 0 2 0 -1 0 3\n1 0 0 0 0 1 0 0 0 0 -1 0\n")
    with pytest.raises(FormatError, match=r"00\.txt:2: the matrix mirrors"):
        kitti.read(root, camera=0)
    with pytest.raises(FormatError, match=r"for the 0 pictures"):
        kitti.read(root, camera=2)
