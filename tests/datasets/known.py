"""One camera whose place, view and picture are worked out by hand, in the numbers each format writes.

It stands at (1, 2, 3) and looks along world +x; its image x goes along world -y, its image y along world -z.
A point 4 in front, 1 to the right and 0.5 below it is at (5, 1, 2.5).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from placecell.scene import Frame, Scene

CENTRE = np.array([1.0, 2.0, 3.0])
RIGHT, DOWN, FORWARD = np.array([0.0, -1, 0]), np.array([0.0, 0, -1]), np.array([1.0, 0, 0])
POINT = np.array([5.0, 1.0, 2.5])
RIGHT_OVER_DEPTH, DOWN_OVER_DEPTH = 1 / 4, 0.5 / 4

WORLD_FROM_CAM_MATRIX = "0 0 1 1\n-1 0 0 2\n0 -1 0 3\n0 0 0 1\n"
WORLD_FROM_CAM_QUAT_WXYZ = "0.5 -0.5 0.5 -0.5"
CAM_FROM_WORLD_QUAT_WXYZ = "0.5 0.5 -0.5 0.5"
CAM_FROM_WORLD_TRANSLATION = "2 3 -1"


def picture(path: Path, size: tuple[int, int] = (64, 48)) -> None:
    """A small grey picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, 128).save(path)


def pictures(root: Path, names: Iterable[str], size: tuple[int, int] = (64, 48)) -> None:
    """Small grey pictures."""
    for name in names:
        picture(root / name, size)


def assert_known_camera(scene: Scene, frame: Frame, *, atol: float = 1e-9) -> None:
    """The frame is the known camera: where it stands, which way each axis goes, and where it sees the point."""
    pose = frame.world_from_cam
    assert pose is not None
    np.testing.assert_allclose(pose.translation, CENTRE, atol=atol)
    np.testing.assert_allclose(pose.rotation, np.stack([RIGHT, DOWN, FORWARD], axis=1), atol=atol)
    camera = scene.camera_of(frame).pinhole
    expected = (camera.cx + camera.fx * RIGHT_OVER_DEPTH, camera.cy + camera.fy * DOWN_OVER_DEPTH)
    np.testing.assert_allclose(camera.project(pose.inv.apply(POINT)), expected, atol=1e-6)


def assert_same_scene(found: Scene, scene: Scene, *, atol: float = 1e-9) -> None:
    """Names, poses and cameras of the posed frames agree; keys of cameras may differ."""
    ours = scene.posed
    assert [frame.name for frame in found.frames] == [frame.name for frame in ours]
    for theirs, frame in zip(found.frames, ours, strict=True):
        assert theirs.world_from_cam is not None
        assert frame.world_from_cam is not None
        np.testing.assert_allclose(theirs.world_from_cam.matrix, frame.world_from_cam.matrix, atol=atol)
        mine, camera = found.camera_of(theirs), scene.camera_of(frame)
        assert (mine.model, mine.width, mine.height) == (camera.model, camera.width, camera.height)
        np.testing.assert_allclose(mine.matrix, camera.matrix, atol=atol)
        np.testing.assert_allclose(mine.distortion, camera.distortion, atol=atol)
        assert found.image_path(theirs).read_bytes() == scene.image_path(frame).read_bytes()
