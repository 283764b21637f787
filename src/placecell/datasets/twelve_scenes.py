"""12-Scenes (Valentin et al., 3DV 2016), with its original labels or the pseudo ground truth by SfM."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from placecell.camera import Camera
from placecell.datasets.pictures import size_px
from placecell.datasets.rows import Row, lines, pose_file, rows
from placecell.datasets.seven_scenes import with_sfm_labels
from placecell.errors import FormatError, SceneError
from placecell.pose import Pose
from placecell.scene import DepthSensor, Frame, Scene

Labels = Literal["dslam", "sfm"]

_SEQUENCE = re.compile(r"sequence(\d+)\s*\[frames=(\d+)\]\s*\[start=(\d+)\s*;\s*end=(\d+)\]")


def read(root: Path, *, labels: Labels = "dslam", labels_folder: Path | None = None) -> Scene:
    """One of the twelve rooms (`apt1/kitchen`, …): `info.txt`, `split.txt`, `data/frame-XXXXXX.{color.jpg,…}`.

    The first sequence of `split.txt` is the test split. Poses are world_from_cam of the colour camera; frames whose
    pose is infinite (tracking was lost) are left out and counted in the notes. Depth is registered to the colour.

    Args:
        labels: `dslam` are the pose files; `sfm` the pseudo ground truth. They are in different world frames.
        labels_folder: where `sfm_poses_{train,test}.txt` or `<apartment>_<room>_{train,test}.txt` lie.
    Raises:
        FormatError: a file is damaged.
        SceneError: unknown labels, or no frames.
    """
    if labels not in get_args(Labels):
        raise SceneError(f"unknown labels {labels!r} of 12-Scenes; known are {', '.join(get_args(Labels))}")
    camera, sensor = _cameras(root / "info.txt")
    frames, lost = [], 0
    for picture in sorted((root / "data").glob("frame-*.color.jpg")):
        stem = picture.name.removesuffix(".color.jpg")
        pose_path = picture.with_name(f"{stem}.pose.txt")
        pose = None if labels == "sfm" else _pose_or_lost(pose_path)
        lost += labels == "dslam" and pose is None
        if labels == "sfm" or pose is not None:
            frames.append(_frame(root, stem, pose))
    if not frames:
        raise SceneError(f"{root / 'data'}: no frame-XXXXXX.color.jpg with a pose; unpack the data set there")
    frames = _in_sequences(frames, root / "split.txt")
    if frames and size_px(root / frames[0].image) != (camera.width, camera.height):
        raise FormatError(
            f"{root / frames[0].image}: not of the size that info.txt says, {camera.width}x{camera.height}"
        )
    notes = (f"{lost} frames without a finite pose left out",) if lost else ()
    name = f"{root.parent.name}_{root.name}"
    scene = Scene(name, labels, True, tuple(frames), {"color": camera}, root, sensor, notes=notes)
    return scene if labels == "dslam" else with_sfm_labels(scene, frames, labels_folder or root)


def _frame(root: Path, stem: str, pose: Pose | None) -> Frame:
    image, depth = f"data/{stem}.color.jpg", f"data/{stem}.depth.png"
    return Frame(image, image, "color", pose, depth=depth if (root / depth).is_file() else None)


def _pose_or_lost(path: Path) -> Pose | None:
    return None if any("INF" in line.upper() for line in lines(path)) else pose_file(path)


def _in_sequences(frames: list[Frame], path: Path) -> list[Frame]:
    spans = []
    for row in rows(path):
        found = _SEQUENCE.fullmatch(" ".join(row.fields))
        if found is None:
            raise row.error("a line of the split reads: sequence0 [frames=357] [start=0 ; end=356]")
        number, count, start, end = map(int, found.groups())
        if end - start + 1 != count:
            raise row.error(f"frames {start} to {end} are {end - start + 1}, not {count}")
        spans.append((f"sequence{number}", range(start, end + 1)))
    placed = []
    for frame in frames:
        index = int(re.findall(r"\d+", frame.name)[0])
        name = next((name for name, span in spans if index in span), None)
        if name is None:
            raise FormatError(f"{path}: frame {index} is in none of its sequences; is it the split of another room?")
        split: Literal["train", "test"] = "test" if name == spans[0][0] else "train"
        placed.append(Frame(frame.name, frame.image, frame.camera, frame.world_from_cam, name, split, frame.depth))
    return placed


def _cameras(path: Path) -> tuple[Camera, DepthSensor]:
    """Colour camera and depth sensor of `info.txt`, lines `key = values`."""
    table = {row.fields[0]: Row(path, row.number, row.fields[2:]) for row in rows(path)}
    color = _camera(path, table, "color", "m_calibrationColorIntrinsic")
    depth = _camera(path, table, "depth", "m_calibrationDepthIntrinsic")
    for key in ("m_calibrationColorExtrinsic", "m_calibrationDepthExtrinsic"):
        row = table.get(key)
        if row is not None and not np.allclose(row.numbers(0, 16, key), np.eye(4).ravel(), atol=1e-6):
            raise row.error("an extrinsic that is not the identity; the depth has to be registered to the colour")
    return color, DepthSensor(depth, Pose.identity(), unit_m=0.001, invalid=(0, 65535))


def _camera(path: Path, table: dict[str, Row], kind: str, key: str) -> Camera:
    missing = [name for name in (f"m_{kind}Width", f"m_{kind}Height", key) if name not in table]
    if missing:
        raise FormatError(f"{path}: no {missing[0]}; is it the info.txt of 12-Scenes?")
    matrix = table[key].numbers(0, 16, key).reshape(4, 4)
    width, height = (table[f"m_{kind}{side}"].integer(0, side) for side in ("Width", "Height"))
    return Camera(width, height, matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])
