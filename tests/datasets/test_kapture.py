from __future__ import annotations

from pathlib import Path

import pytest

from placecell.datasets import kapture
from placecell.errors import FormatError

from .known import CAM_FROM_WORLD_QUAT_WXYZ, CAM_FROM_WORLD_TRANSLATION, assert_known_camera, pictures

KNOWN = ", ".join(f"{CAM_FROM_WORLD_QUAT_WXYZ} {CAM_FROM_WORLD_TRANSLATION}".split())
FORMAT = "# kapture format: 1.1\n"


def make(root: Path, part: str = "") -> Path:
    folder = root / part / "sensors"
    pictures(folder / "records_data", [f"cam/{number}.jpg" for number in range(3)])
    (folder / "sensors.txt").write_text(
        f"{FORMAT}cam0, phone, camera, SIMPLE_RADIAL, 64, 48, 50, 31, 25, -0.1\ngps, , gnss, EPSG:4326\n"
    )
    (folder / "records_camera.txt").write_text(FORMAT + "".join(f"{n}, cam0, cam/{n}.jpg\n" for n in range(3)))
    (folder / "trajectories.txt").write_text(f"{FORMAT}0, cam0, {KNOWN}\n1, cam0, , , , , 1, 2, 3\n")
    return root


def test_poses_are_world_to_camera_and_partial_ones_none(tmp_path: Path) -> None:
    scene = kapture.read(make(tmp_path))
    assert_known_camera(scene, scene.frames[0])
    assert [frame.world_from_cam is None for frame in scene.frames] == [False, True, True]
    assert "2 of 3 pictures have no whole pose" in scene.notes[0]
    assert scene.image_path(scene.frames[2]).is_file()
    camera = scene.cameras["cam0"]
    assert (camera.model, camera.fx, camera.fy, camera.cx, camera.cy) == ("opencv", 50, 50, 31, 25)
    assert camera.distortion == (-0.1, 0, 0, 0)


def test_mapping_and_query_are_the_splits(tmp_path: Path) -> None:
    make(tmp_path, "mapping")
    scene = kapture.read(make(tmp_path, "query"))
    assert [frame.split for frame in scene.frames] == ["train"] * 3 + ["test"] * 3
    assert scene.frames[3].name == "query/cam/0.jpg"
    assert scene.image_path(scene.frames[3]) == tmp_path / "query/sensors/records_data/cam/0.jpg"


def test_rigs_are_refused_clearly(tmp_path: Path) -> None:
    folder = make(tmp_path) / "sensors"
    (folder / "rigs.txt").write_text(f"{FORMAT}rig, cam0, 1, 0, 0, 0, 0, 0, 0\n")
    (folder / "trajectories.txt").write_text(f"{FORMAT}0, rig, {KNOWN}\n")
    with pytest.raises(FormatError, match=r"trajectories\.txt:2: 'rig' is a rig; write the poses of its cameras"):
        kapture.read(tmp_path)


@pytest.mark.parametrize(
    ("sensor", "why"),
    [
        ("cam0, , camera, UNKNOWN_CAMERA, 64, 48", "has no intrinsics"),
        ("cam0, , camera, SIMPLE_PINHOLE, 64, 48, 50, 31", "does not take 2 parameters"),
        ("cam0, , camera, NO_SUCH, 64, 48, 50, 31", "camera model NO_SUCH is unknown"),
        ("cam0, , camera, FOV, 64, 48, 50, 50, 31, 25, 0.5", "FOV .* no equal here"),
        ("other, , camera, SIMPLE_PINHOLE, 64, 48, 50, 31, 25", "sensor 'cam0' is no camera of sensors.txt"),
    ],
)
def test_cameras_that_cannot_be_held(tmp_path: Path, sensor: str, why: str) -> None:
    (make(tmp_path) / "sensors/sensors.txt").write_text(f"{FORMAT}{sensor}\n")
    with pytest.raises(FormatError, match=rf"\.txt:2: .*{why}"):
        kapture.read(tmp_path)


@pytest.mark.parametrize(
    ("row", "why"),
    [("0, cam0, 1, 0, 0, 0, 0, 0", "no the last of tx ty tz"), ("0, cam0, 1, 0, 0, 0, nan, 0, 0", "not finite")],
)
def test_damage_is_named_with_its_line(tmp_path: Path, row: str, why: str) -> None:
    (make(tmp_path) / "sensors/trajectories.txt").write_text(f"{FORMAT}{row}\n")
    with pytest.raises(FormatError, match=rf"trajectories\.txt:2: .*{why}"):
        kapture.read(tmp_path)
