from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from placecell.datasets import bundler
from placecell.errors import FormatError

from .known import POINT, assert_known_camera, pictures

# The camera looks down its -z with y up: rows 2 and 3 of the usual [R|t] change sign.
# f = 40: the point is 10 px right and 5 px below the middle, y up.
MODEL = """# Bundle file v0.3
3 2
40 0 0
0 -1 0
0 0 1
-1 0 0
2 -3 1
0 0 0
0 0 0
0 0 0
0 0 0
0 0 0
40 -0.1 0.01
1 0 0
0 1 0
0 0 1
0 0 0
5 1 2.5
10 20 30
2 0 7 10 -5 2 3 1 1
0 0 -2
1 2 3
1 2 0 4 8
"""


def make(root: Path, text: str = MODEL) -> Path:
    pictures(root, ["a.jpg", "b.jpg", "c.jpg"])
    (root / "bundle.out").write_text(text)
    (root / "list.txt").write_text("a.jpg 0 40\nb.jpg\nc.jpg 0 40\n")
    return root


def test_bundler_looks_down_minus_z_with_y_up(tmp_path: Path) -> None:
    scene = bundler.read(make(tmp_path))
    assert_known_camera(scene, scene.frames[0])
    second = scene.frames[1].world_from_cam
    assert second is not None
    np.testing.assert_allclose(second.rotation @ [0, 0, 1], [0, 0, -1], atol=1e-12)


def test_pixels_are_from_the_middle_with_y_up(tmp_path: Path) -> None:
    scene = bundler.read(make(tmp_path))
    cloud, pose = scene.points, scene.frames[0].world_from_cam
    assert cloud is not None
    assert pose is not None
    np.testing.assert_array_equal(cloud.seen_px[0], [32 + 10, 24 + 5])
    np.testing.assert_allclose(scene.camera_of(scene.frames[0]).project(pose.inv.apply(POINT)), cloud.seen_px[0])
    np.testing.assert_array_equal(cloud.rgb, [[10, 20, 30], [1, 2, 3]])


def test_unregistered_pictures_are_left_out_and_the_others_renumbered(tmp_path: Path) -> None:
    scene = bundler.read(make(tmp_path))
    assert [frame.name for frame in scene.frames] == ["a.jpg", "c.jpg"]
    assert scene.notes == ("1 of 3 pictures were not registered and are left out",)
    assert scene.points is not None
    np.testing.assert_array_equal(scene.points.seen_frame, [0, 1, 1])


def test_distortion_is_bundlers(tmp_path: Path) -> None:
    camera = bundler.read(make(tmp_path)).cameras["2"]
    x, y = 0.3, -0.2
    scale = 1 - 0.1 * (x * x + y * y) + 0.01 * (x * x + y * y) ** 2
    np.testing.assert_allclose(camera.project([x, y, 1.0]), (32 + 40 * scale * x, 24 + 40 * scale * y))


def test_queries_are_the_test_split(tmp_path: Path) -> None:
    root = make(tmp_path)
    (root / "list.query.txt").write_text("c.jpg 0 40\n")
    assert [frame.split for frame in bundler.read(root).frames] == ["train", "test"]


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"bundle\.out:2: 3 cameras and 9 points need 43 lines, not 22"):
        bundler.read(make(tmp_path, MODEL.replace("3 2\n", "3 9\n", 1)))
    with pytest.raises(FormatError, match=r"bundle\.out:4: the matrix is off a rotation"):
        bundler.read(make(tmp_path, MODEL.replace("0 -1 0\n", "0 -3 0\n", 1)))
    (tmp_path / "list.txt").write_text("a.jpg\nb.jpg\n")
    with pytest.raises(FormatError, match=r"list\.txt: 2 pictures, but bundle\.out has 3 cameras"):
        bundler.read(tmp_path)
