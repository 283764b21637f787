"""transforms.json of nerfstudio and instant-ngp (and NeRF's own synthetic scenes)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from placecell import atomic
from placecell.camera import Camera
from placecell.datasets.pictures import Transfer, clean_name, file_name, hand_on, keyed, located, size_px
from placecell.datasets.rows import rigid
from placecell.errors import FormatError, SceneError
from placecell.pose import Array
from placecell.scene import Frame, Scene, Split, read_json

FILES: dict[str, Split] = {
    "transforms.json": "train",
    "transforms_train.json": "train",
    "transforms_test.json": "test",
}

_GL_FROM_CV = np.diag([1.0, -1.0, -1.0, 1.0])
_PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE")
_RADIAL = ("OPENCV", "SIMPLE_RADIAL", "RADIAL", "perspective")
_FISHEYES = ("OPENCV_FISHEYE", "fisheye")


def read(root: Path, *, metric: bool = False) -> Scene:
    """`transforms.json`, or `transforms_train.json` with `transforms_test.json`.

    `transform_matrix` is world_from_cam with OpenGL camera axes (x right, y up, z back); ours are OpenCV's. Where
    the file says `applied_transform` or `applied_scale`, they are taken back: x_file = s (A x), so that the scene is
    in the world it was reconstructed in. Intrinsics are per frame, else global; pixel centres at .5.

    Args:
        metric: whether the world is known to be in metres.
    Raises:
        FormatError: the file is damaged, the camera model cannot be held, or pictures are missing.
    """
    files = [(root / name, split) for name, split in FILES.items() if (root / name).is_file()]
    if not files:
        raise SceneError(f"{root}: none of {', '.join(FILES)}")
    frames: list[Frame] = []
    cameras: list[Camera] = []
    notes: tuple[str, ...] = ()
    for path, split in files:
        content = read_json(path)
        part, found = _read_file(path, content, split)
        frames, cameras = frames + part, cameras + found
        if "applied_transform" in content or "applied_scale" in content:
            notes += (f"{path.name}: its applied_transform and applied_scale were taken back",)
    if (root / "transforms_val.json").is_file():
        notes += ("the pictures of transforms_val.json are left out",)
    table, keys = keyed(cameras)
    return Scene(root.name, "nerfstudio", metric, tuple(_renamed(frames, keys)), table, root, notes=notes)


def write(scene: Scene, folder: Path, *, images: Transfer = "link", overwrite: bool = False) -> Path:
    """Write `transforms.json` and the pictures in `images/`, whole or not at all. Frames without a pose are left out.

    Raises:
        FormatError: the cameras are of kinds that one file cannot hold together, or a distortion it cannot hold.
        SceneError: no frame has a pose, or a picture is missing.
        PlacecellError: the folder exists, or cannot be written.
    """
    kept = [frame for frame in scene.frames if frame.world_from_cam is not None]
    if not kept:
        raise SceneError(f"scene {scene.name}: no frame has a pose; there is nothing to export")
    models = {_model_name(scene.camera_of(frame)) for frame in kept}
    if len(models) > 1 and "OPENCV_FISHEYE" in models:
        raise FormatError(
            f"{scene.name}: fisheye and other cameras do not fit into one transforms.json; split the scene"
        )
    content: dict[str, Any] = {"camera_model": min(models, default="PINHOLE")}  # OPENCV < PINHOLE
    shared = len({frame.camera for frame in kept}) == 1
    if shared:
        content |= _intrinsics(scene.camera_of(kept[0]))
    content["frames"] = []
    with atomic.new_folder(folder, replace=overwrite) as aside:
        for frame in kept:
            name = f"images/{file_name(frame)}"
            hand_on(scene, frame, aside / name, images)
            own = {} if shared else _intrinsics(scene.camera_of(frame))
            matrix = frame.world_from_cam.matrix @ _GL_FROM_CV  # type: ignore[union-attr]
            content["frames"].append({"file_path": name, **own, "transform_matrix": matrix.tolist()})
        for split in ("train", "test"):
            content[f"{split}_filenames"] = [f"images/{file_name(frame)}" for frame in kept if frame.split == split]
        (aside / "transforms.json").write_text(
            json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return folder


def _read_file(path: Path, content: Mapping[str, Any], split: Split) -> tuple[list[Frame], list[Camera]]:
    entries = content.get("frames")
    if not isinstance(entries, list) or not entries:
        raise FormatError(f"{path}: no frames; it is the transforms.json of nothing")
    tests = {clean_name(str(name)) for name in content.get("test_filenames") or ()}
    file_from_world, scale = _applied(path, content)
    names = [_file_path(path, number, entry) for number, entry in enumerate(entries)]
    paths = located(path.parent, names, path)
    frames, cameras = [], []
    for number, (entry, name, image) in enumerate(zip(entries, names, paths, strict=True)):
        where = f"{path}: frame {number} ({name})"
        try:
            matrix = np.array(entry["transform_matrix"], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{where}: no transform_matrix of numbers") from error
        file_from_gl = rigid(matrix, where).matrix
        file_from_gl[:3, 3] /= scale
        pose = rigid(np.linalg.inv(file_from_world) @ file_from_gl @ _GL_FROM_CV, where)
        own: Split = "test" if clean_name(name) in tests else split
        frames.append(Frame(clean_name(name), image, "", pose, split=own))
        cameras.append(_camera({**content, **entry}, path.parent / image, where))
    return frames, cameras


def _file_path(path: Path, number: int, entry: Any) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
        raise FormatError(f"{path}: frame {number}: no file_path")
    return clean_name(entry["file_path"])


def _applied(path: Path, content: Mapping[str, Any]) -> tuple[Array, float]:
    """(4, 4) A and s of x_file = s (A x)."""
    matrix = np.eye(4)
    try:
        matrix[:3] = np.array(content.get("applied_transform", np.eye(4)[:3]), dtype=np.float64)[:3]
        scale = float(content.get("applied_scale", 1.0))
    except (TypeError, ValueError) as error:
        raise FormatError(f"{path}: applied_transform is 3x4 numbers and applied_scale one") from error
    if not (np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 1e-9 and scale > 0):
        raise FormatError(f"{path}: applied_transform and applied_scale cannot be taken back")
    return matrix, scale


def _camera(values: Mapping[str, Any], picture: Path, where: str) -> Camera:
    """Intrinsics of a frame's values over the global ones; the picture's size where none is given."""
    try:
        width, height = (int(values[key]) for key in "wh") if {"w", "h"} <= values.keys() else size_px(picture)
        if "fl_x" in values:
            fx = float(values["fl_x"])
        else:
            fx = width / 2 / math.tan(float(values["camera_angle_x"]) / 2)
        angle_y = values.get("camera_angle_y")
        fy = float(
            values.get("fl_y", fx if angle_y is None or "fl_x" in values else height / 2 / math.tan(angle_y / 2))
        )
        cx, cy = float(values.get("cx", width / 2)), float(values.get("cy", height / 2))
        k1, k2, k3, k4, p1, p2 = (float(values.get(key, 0.0)) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    except KeyError as error:
        raise FormatError(f"{where}: neither fl_x nor camera_angle_x, for the frame or for all") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise FormatError(f"{where}: intrinsics that are not numbers ({error})") from error
    model = str(values.get("camera_model", "OPENCV_FISHEYE" if values.get("is_fisheye") else "OPENCV"))
    if model in _FISHEYES:
        return Camera(width, height, fx, fy, cx, cy, "fisheye", (k1, k2, k3, k4))
    if model not in (*_PINHOLES, *_RADIAL) or k4 != 0:
        what = "k4 of an OPENCV camera" if k4 else f"camera model {model}"
        raise FormatError(f"{where}: {what} has no equal here; undistort the pictures first")
    if model in _PINHOLES or not any((k1, k2, k3, p1, p2)):
        return Camera(width, height, fx, fy, cx, cy)
    return Camera(width, height, fx, fy, cx, cy, "opencv", (k1, k2, p1, p2, k3) if k3 else (k1, k2, p1, p2))


def _renamed(frames: list[Frame], keys: list[str]) -> list[Frame]:
    """Frames with their cameras' keys, and without the `images/` that nerfstudio puts before every name."""
    shared = all(frame.name.startswith("images/") for frame in frames)
    cut = len("images/") if shared else 0
    return [
        Frame(frame.name[cut:], frame.image, key, frame.world_from_cam, split=frame.split)
        for frame, key in zip(frames, keys, strict=True)
    ]


def _model_name(camera: Camera) -> str:
    return {"pinhole": "PINHOLE", "opencv": "OPENCV", "fisheye": "OPENCV_FISHEYE"}[camera.model]


def _intrinsics(camera: Camera) -> dict[str, Any]:
    names = ("k1", "k2", "k3", "k4") if camera.model == "fisheye" else ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
    distortion = dict(zip(names, camera.distortion, strict=False))
    if camera.model == "opencv":
        rational = [distortion.pop(name, 0.0) for name in ("k4", "k5", "k6")]
        if any(rational):
            raise FormatError("nerfstudio has no rational distortion (k4 k5 k6); undistort the pictures first")
    size = {"w": camera.width, "h": camera.height}
    return size | {"fl_x": camera.fx, "fl_y": camera.fy, "cx": camera.cx, "cy": camera.cy} | distortion
