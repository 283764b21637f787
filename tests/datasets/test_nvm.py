from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from placecell.datasets import nvm
from placecell.errors import FormatError

from .known import CAM_FROM_WORLD_QUAT_WXYZ, POINT, assert_known_camera, pictures

# f = 40: the point is 40 / 4 = 10 px right and 40 * 0.5 / 4 = 5 px below the middle.
MODEL = f"""NVM_V3

2
a b.jpg\t40 {CAM_FROM_WORLD_QUAT_WXYZ} 1 2 3 0 0
c.jpg\t40 1 0 0 0 0 0 0 0 0

2
5 1 2.5 10 20 30 1 0 7 10 5
0 0 2 1 2 3 2 1 0 0 0 0 3 -8 4
"""


def make(root: Path, text: str = MODEL) -> Path:
    pictures(root, ["a b.jpg", "c.jpg"])
    (root / "model.nvm").write_text(text)
    return root


def test_nvm_holds_the_centre_not_the_translation(tmp_path: Path) -> None:
    scene = nvm.read(make(tmp_path))
    assert [frame.name for frame in scene.frames] == ["a b.jpg", "c.jpg"]
    assert_known_camera(scene, scene.frames[0])


def test_pixels_are_from_the_middle_of_the_picture(tmp_path: Path) -> None:
    scene = nvm.read(make(tmp_path))
    cloud, pose = scene.points, scene.frames[0].world_from_cam
    assert cloud is not None
    assert pose is not None
    np.testing.assert_array_equal(cloud.points_world[0], POINT)
    np.testing.assert_array_equal(cloud.rgb, [[10, 20, 30], [1, 2, 3]])
    np.testing.assert_array_equal(cloud.seen_point, [0, 1, 1])
    np.testing.assert_array_equal(cloud.seen_frame, [0, 1, 0])
    np.testing.assert_array_equal(cloud.seen_px, [[32 + 10, 24 + 5], [32, 24], [32 - 8, 24 + 4]])
    projected = scene.camera_of(scene.frames[0]).project(pose.inv.apply(POINT))
    np.testing.assert_allclose(projected, cloud.seen_px[0], atol=1e-5)


def test_radial_undistorts_in_nvm_and_distorts_here() -> None:
    model = nvm.NvmModel(
        *((),) * 1, (40.0,), (0.05,), (), np.zeros((0, 3)), *(np.zeros((0, 3), np.uint8),),
        *(np.zeros(0, np.int32),) * 2, np.zeros((0, 2)), (),
    )  # fmt: skip
    camera = model.camera(0, 64, 48)
    seen = np.array([0.3, -0.2])
    undistorted = seen * (1 + 0.05 * seen @ seen)
    pixels = camera.project([*undistorted, 1.0])
    np.testing.assert_allclose(pixels, seen * 40 + (32, 24), atol=2e-4)
    assert np.abs(camera.pinhole.project([*undistorted, 1.0]) - pixels).max() > 0.05


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("NVM_V3\n", "NVM_V2\n", r"model\.nvm:1: the first line reads NVM_V3"),
        ("\n2\na b", "\n3\na b", r"model\.nvm:7: a picture has 11 columns, this line 1"),
        ("40 0.5", "nan 0.5", r"model\.nvm:4: the focal length is not finite"),
        ("0.5 0.5 -0.5 0.5", "0.5 0.5 -0.5 1.5", r"model\.nvm:4: not a rotation quaternion"),
        ("1 0 7 10 5", "1 9 7 10 5", r"model\.nvm:8: a measurement names a picture that is not one of the 2"),
        ("1 0 7 10 5", "2 0 7 10 5", r"model\.nvm:8: 2 measurements needs columns"),
        ("0 0 2 1 2 3 2 1 0 0 0 0 3 -8 4\n", "", r"model\.nvm:7: 2 points announced, 1 lines follow"),
    ],
)
def test_damage_is_named_with_its_line(tmp_path: Path, old: str, new: str, why: str) -> None:
    assert old in MODEL
    with pytest.raises(FormatError, match=why):
        nvm.read(make(tmp_path, MODEL.replace(old, new, 1)))


def test_other_models_of_the_file_are_noted(tmp_path: Path) -> None:
    scene = nvm.read(make(tmp_path, MODEL + "1\nc.jpg 40 1 0 0 0 0 0 0 0 0\n0\n0\n"))
    assert len(scene.frames) == 2
    assert scene.notes == ("model.nvm: only its first model is used",)
