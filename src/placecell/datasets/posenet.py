"""The lists that PoseNet (caffe-posenet) was trained with: one header, two opposite conventions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

from placecell.camera import Camera
from placecell.datasets import cambridge
from placecell.datasets.pictures import clean_name, keyed, located, size_px
from placecell.datasets.posenet_list import HEADER, ListedPose, read_posenet_list
from placecell.datasets.rows import Quaternions
from placecell.datasets.seven_scenes import CAM_FROM_DEPTH
from placecell.errors import FormatError, SceneError
from placecell.pose import Pose
from placecell.scene import Frame, Scene

Convention = Literal["7scenes", "cambridge"]

_NAMES: dict[Convention, str] = {"7scenes": r"seq-\d+/frame-\d{6}\.color\.\w+", "cambridge": r"seq\d+/frame\d{5}\.\w+"}
_FOCAL_OF_WIDTH = {"7scenes": 525.0 / 640.0, "cambridge": cambridge.USUAL_FOCAL_OF_WIDTH}


def read(root: Path, *, convention: Convention | None = None, focal_px: float | None = None) -> Scene:
    """The pictures of the lists `*_train.txt` (train) and `*_val.txt` or `*_test.txt` (test) in `root`.

    Args:
        convention: what the lists hold, by default told from how they name pictures. `7scenes`: the quaternion is
            world_from_cam and it is the *depth* camera, moved here to the colour camera. `cambridge`: the quaternion
            is cam_from_world, the position the colour camera's centre.
        focal_px: of all pictures; by default the usual 525 of 640 px, or 0.87 of the width, noted.
    Raises:
        FormatError: a list is damaged, the convention cannot be told, or pictures are missing.
    """
    files = list_files(root)
    if not files:
        raise SceneError(f"{root}: no *_train.txt, *_val.txt or *_test.txt that begins with {HEADER!r}")
    frames: list[Frame] = []
    cameras: list[Camera] = []
    notes: tuple[str, ...] = ()
    for path in files:
        kind = convention or convention_of(path)
        named, remarks = read_list(path, convention=kind)
        notes += remarks
        split: Literal["train", "test"] = "train" if path.stem.endswith("train") else "test"
        for image, (name, pose) in zip(located(root, list(named), path), named.items(), strict=True):
            size = size_px(root / image)
            cameras.append(Camera.from_focal(*size, focal_px or _FOCAL_OF_WIDTH[kind] * max(size)))
            frames.append(Frame(name, image, "", pose, name.partition("/")[0], split))
    if focal_px is None:
        notes += ("the focal length is assumed: the lists hold none",)
    table, keys = keyed(cameras)
    placed = tuple(
        Frame(frame.name, frame.image, key, frame.world_from_cam, frame.sequence, frame.split)
        for frame, key in zip(frames, keys, strict=True)
    )
    labels = "kinectfusion" if kind == "7scenes" else "sfm"
    return Scene(root.name, labels, True, placed, table, root, notes=notes)


def list_files(root: Path) -> list[Path]:
    """The PoseNet lists in a folder, training first."""
    found = [path for ending in ("train", "val", "test") for path in sorted(root.glob(f"*{ending}.txt"))]
    return [path for path in found if is_list(path)]


def is_list(path: Path) -> bool:
    """Whether a file begins as a PoseNet list does."""
    with path.open("rb") as file:
        return HEADER.encode() in file.read(len(HEADER) + 3)


def read_list(path: Path, *, convention: Convention | None = None) -> tuple[dict[str, Pose], tuple[str, ...]]:
    """`world_from_cam` of the colour camera by picture, and notes; the pictures themselves are not needed.

    Raises:
        FormatError: a line is damaged, a picture comes twice, or the convention cannot be told.
    """
    kind = convention or convention_of(path)
    if kind not in get_args(Convention):
        raise SceneError(f"unknown convention {kind!r} of a pose list; known are {', '.join(get_args(Convention))}")
    quaternions = Quaternions(path.name, cambridge.QUATERNION_TOLERANCE)
    poses: dict[str, Pose] = {}
    for item in read_posenet_list(path):
        name = clean_name(item.name)
        if name in poses:
            raise item.row.error(f"{name} is listed twice; delete one of the lines")
        poses[name] = cambridge.pose_of(item, quaternions) if kind == "cambridge" else _color_pose(item, quaternions)
    notes = quaternions.notes
    if path.stem.startswith("heads") and kind == "7scenes":
        notes += (f"{path.name}: these lists of heads have train and test the other way round than 7-Scenes",)
    return poses, notes


def convention_of(path: Path) -> Convention:
    """The convention of a list, by its picture names.

    Raises:
        FormatError: the names are of neither data set.
    """
    listed = read_posenet_list(path)
    for kind, pattern in _NAMES.items():
        if listed and all(re.fullmatch(pattern, item.name) for item in listed):
            return kind
    raise FormatError(
        f"{path}: the names do not tell whether quaternions are camera-to-world (convention='7scenes') "
        "or world-to-camera (convention='cambridge'); say which"
    )


def _color_pose(item: ListedPose, quaternions: Quaternions) -> Pose:
    world_from_depth = quaternions.pose(item.row, item.quat_wxyz, item.centre)
    return world_from_depth @ CAM_FROM_DEPTH.inv
