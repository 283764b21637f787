from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from placecell.datasets.pose_list import read_pose_list
from placecell.errors import FormatError


def written(folder: Path, text: str) -> Path:
    path = folder / "list.txt"
    path.write_bytes(text.encode("utf-8"))
    return path


def test_the_lines_are_cam_from_world_with_w_first(tmp_path: Path) -> None:
    xyzw = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_quat()
    line = f"seq-01/ä.png {xyzw[3]} {xyzw[0]} {xyzw[1]} {xyzw[2]} 0.5 -1 2"
    pose = read_pose_list(written(tmp_path, line))["seq-01/ä.png"]
    cam_from_world = Rotation.from_quat(xyzw)
    assert np.allclose(pose.translation, -cam_from_world.inv().apply([0.5, -1, 2]))
    assert np.allclose(pose.rotation, cam_from_world.as_matrix().T)


def test_what_follows_and_windows_lines_and_comments_do_no_harm(tmp_path: Path) -> None:
    text = "\ufeff# file qw qx qy qz tx ty tz f\r\na 2 0 0 0 1 2 3 525.5\r\n\r\nb -1 0 0 0 1 2 3 0.1 0.2 words\r\n"
    poses = read_pose_list(written(tmp_path, text))
    assert list(poses) == ["a", "b"]
    assert np.allclose(poses["a"].translation, [-1, -2, -3])
    assert np.allclose(poses["b"].rotation, np.eye(3))


@pytest.mark.parametrize(
    "line, said",
    [
        ("b 1 0 0 0 1 2", "6 numbers, expected"),
        ("b 1 0 0 0 1 2 x", "could not convert"),
        ("b 0 0 0 0 1 2 3", "not a rotation quaternion"),
        ("b 1 0 0 0 1 nan 3", "finite"),
        ("b nan 0 0 0 1 2 3", "not a rotation quaternion"),
        ("a 1 0 0 0 1 2 3", "a comes twice"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = written(tmp_path, f"a 1 0 0 0 0 0 0\n{line}\n")
    with pytest.raises(FormatError, match=said) as caught:
        read_pose_list(path)
    assert f"{path}:2: " in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"none\.txt: not readable"):
        read_pose_list(tmp_path / "none.txt")
