from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import SceneMaker
from placecell.camera import Camera
from placecell.datasets import nerfstudio
from placecell.errors import FormatError
from placecell.scene import Scene

from .known import POINT, assert_known_camera, assert_same_scene, pictures

# OpenGL axes: the columns are right, up = -down, back = -forward, and the centre.
KNOWN = [[0, 0, -1, 1], [-1, 0, 0, 2], [0, 1, 0, 3], [0, 0, 0, 1]]
PINHOLE = {"w": 64, "h": 48, "fl_x": 50, "fl_y": 51, "cx": 31, "cy": 25}


def make(root: Path, content: dict[str, Any], file: str = "transforms.json", name: str = "./images/a.png") -> Path:
    pictures(root, [name if name.endswith(".png") else f"{name}.png"])
    frame = {"file_path": name, "transform_matrix": KNOWN, **content.pop("frame", {})}
    (root / file).write_text(json.dumps({**content, "frames": [frame]}))
    return root


def only(scene: Scene) -> Camera:
    (frame,) = scene.frames
    return scene.camera_of(frame)


def test_axes_are_opengl(tmp_path: Path) -> None:
    scene = nerfstudio.read(make(tmp_path, dict(PINHOLE)))
    assert scene.frames[0].name == "a.png"
    assert_known_camera(scene, scene.frames[0])


def test_applied_transform_and_scale_are_taken_back(tmp_path: Path) -> None:
    # x_file = 2 (A x): nerfstudio's (x, y, z) -> (x, z, -y), and a shift.
    applied = np.array([[1.0, 0, 0, 7], [0, 0, 1, 0], [0, -1, 0, 0]])
    matrix = np.array(KNOWN, dtype=float)
    matrix[:3] = applied[:, :3] @ matrix[:3]
    matrix[:3, 3] = 2 * (matrix[:3, 3] + applied[:, 3])
    content = {**PINHOLE, "applied_transform": applied.tolist(), "applied_scale": 2.0}
    scene = nerfstudio.read(make(tmp_path, {**content, "frame": {"transform_matrix": matrix.tolist()}}))
    assert_known_camera(scene, scene.frames[0])
    assert "taken back" in scene.notes[0]


def test_intrinsics_of_a_frame_go_before_the_global_ones(tmp_path: Path) -> None:
    scene = nerfstudio.read(make(tmp_path, {**PINHOLE, "frame": {"fl_x": 99}}))
    assert (only(scene).fx, only(scene).fy) == (99, 51)


def test_camera_angle_x_is_the_whole_width(tmp_path: Path) -> None:
    root = make(tmp_path, {"camera_angle_x": math.pi / 2}, "transforms_train.json", "./train/r_0")
    make(tmp_path, {"camera_angle_x": math.pi / 2}, "transforms_test.json", "./test/r_0")
    scene = nerfstudio.read(root)
    assert [(frame.name, frame.image, frame.split) for frame in scene.frames] == [
        ("train/r_0", "train/r_0.png", "train"),
        ("test/r_0", "test/r_0.png", "test"),
    ]
    camera = scene.camera_of(scene.frames[0])
    assert (camera.width, camera.height, camera.cx, camera.cy) == (64, 48, 32, 24)
    assert (camera.fx, camera.fy) == pytest.approx((32, 32))


def test_k3_is_a_radial_coefficient_not_the_third_number(tmp_path: Path) -> None:
    values = {**PINHOLE, "camera_model": "OPENCV", "k1": 0.1, "k2": 0.02, "k3": 0.003, "p1": 0.001, "p2": 0.002}
    camera = only(nerfstudio.read(make(tmp_path, values)))
    assert camera.distortion == (0.1, 0.02, 0.001, 0.002, 0.003)
    x, y = 0.3, -0.2
    r2 = x * x + y * y
    radial = 1 + 0.1 * r2 + 0.02 * r2**2 + 0.003 * r2**3
    u = x * radial + 2 * 0.001 * x * y + 0.002 * (r2 + 2 * x * x)
    np.testing.assert_allclose(camera.project([x, y, 1.0])[0], 50 * u + 31)


@pytest.mark.parametrize("mark", [{"camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": True}])
def test_fisheye(tmp_path: Path, mark: dict[str, Any]) -> None:
    camera = only(nerfstudio.read(make(tmp_path, {**PINHOLE, **mark, "k1": 0.1, "k2": 0.02, "k3": 0.003, "k4": 4e-4})))
    assert (camera.model, camera.distortion) == ("fisheye", (0.1, 0.02, 0.003, 4e-4))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({**PINHOLE, "camera_model": "EQUIRECTANGULAR"}, r"frame 0 \(images/a\.png\): camera model EQUIRECTANGULAR"),
        ({**PINHOLE, "k4": 0.1}, "k4 of an OPENCV camera"),
        ({"w": 64, "h": 48}, "neither fl_x nor camera_angle_x"),
        ({**PINHOLE, "fl_x": "wide"}, "intrinsics that are not numbers"),
        ({**PINHOLE, "frame": {"transform_matrix": [[math.nan] * 4] * 4}}, "frame 0 .*the pose is not finite"),
        ({**PINHOLE, "frame": {"transform_matrix": (2 * np.eye(4)).tolist()}}, "is off a rotation"),
        ({**PINHOLE, "frame": {"transform_matrix": None}}, "frame 0 "),
        ({**PINHOLE, "frame": {"file_path": 3}}, "frame 0: no file_path"),
        ({**PINHOLE, "applied_transform": np.zeros((3, 4)).tolist()}, "cannot be taken back"),
    ],
)
def test_damage_is_named_with_its_frame(tmp_path: Path, content: dict[str, Any], why: str) -> None:
    with pytest.raises(FormatError, match=why) as caught:
        nerfstudio.read(make(tmp_path, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "camera",
    [
        Camera(64, 48, 50.0, 51.0, 31.0, 25.0),
        Camera(64, 48, 50.0, 51.0, 31.0, 25.0, "opencv", (0.1, -0.05, 0.001, 0.002)),
        Camera(64, 48, 50.0, 51.0, 31.0, 25.0, "opencv", (0.1, -0.05, 0.001, 0.002, 0.01)),
        Camera(64, 48, 50.0, 51.0, 31.0, 25.0, "fisheye", (0.1, -0.05, 0.001, 0.002)),
    ],
)
def test_round_trip(tmp_path: Path, scene_of: SceneMaker, camera: Camera) -> None:
    scene = replace(scene_of(), cameras={"phone": camera})
    found = nerfstudio.read(nerfstudio.write(scene, tmp_path / "out", images="copy"))
    assert_same_scene(found, scene)
    assert [frame.split for frame in found.frames] == [frame.split for frame in scene.posed]


def test_round_trip_with_a_camera_a_frame(tmp_path: Path, scene_of: SceneMaker) -> None:
    scene = scene_of()
    cameras = {f"{index}": Camera(64, 48, 50.0 + index, 51.0, 31.0, 25.0) for index in range(4)}
    frames = tuple(replace(frame, camera=f"{index}") for index, frame in enumerate(scene.frames))
    scene = replace(scene, cameras=cameras, frames=frames)
    assert_same_scene(nerfstudio.read(nerfstudio.write(scene, tmp_path / "out")), scene)


def test_written_matrix_sees_the_point_behind_its_z_axis(tmp_path: Path) -> None:
    scene = nerfstudio.read(make(tmp_path / "in", dict(PINHOLE)))
    content = json.loads((nerfstudio.write(scene, tmp_path / "out") / "transforms.json").read_text())
    in_gl = np.linalg.inv(content["frames"][0]["transform_matrix"]) @ [*POINT, 1]
    np.testing.assert_allclose(in_gl, [1, -0.5, -4, 1], atol=1e-12)  # right, below, in front


def test_what_the_format_cannot_hold_is_refused_and_nothing_is_left(tmp_path: Path, scene_of: SceneMaker) -> None:
    rational = Camera(64, 48, 50.0, 51.0, 31.0, 25.0, "opencv", (0.1, 0.0, 0.0, 0.0, 0.0, 0.2, 0.0, 0.0))
    with pytest.raises(FormatError, match="no rational distortion"):
        nerfstudio.write(replace(scene_of(), cameras={"phone": rational}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
