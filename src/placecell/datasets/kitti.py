"""KITTI odometry (Geiger et al., CVPR 2012)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from placecell.camera import Camera
from placecell.datasets.pictures import size_px
from placecell.datasets.rows import Row, rigid, rows
from placecell.errors import FormatError, SceneError
from placecell.pose import Pose
from placecell.scene import Frame, Scene


def read(root: Path, *, sequence: str | None = None, camera: Literal[0, 1, 2, 3] = 2) -> Scene:
    """One drive: `poses/XX.txt`, `sequences/XX/calib.txt`, `sequences/XX/image_N`, `times.txt` if there.

    A line of the poses is the 3x4 world_from_cam of camera *0*, row by row, the world being its first frame; the
    others stand beside it as their P says: P_N = K [I | b], so cam_N_from_cam_0 moves by K⁻¹ P_N[:, 3].

    Args:
        sequence: `00` to `10`; may be left out when there is only one. Each has a world of its own.
        camera: 0 and 1 are grey, 2 and 3 colour.
    Raises:
        FormatError: a file is damaged, or its count differs from the pictures.
        SceneError: the sequence has to be named, or has no poses.
    """
    sequence = sequence or _only_sequence(root)
    poses_path, folder = root / "poses" / f"{sequence}.txt", root / "sequences" / sequence
    if not poses_path.is_file():
        raise SceneError(f"{poses_path}: missing; KITTI publishes poses of the sequences 00 to 10 only")
    pictures = sorted(path for path in (folder / f"image_{camera}").glob("*") if path.suffix in (".png", ".jpg"))
    table = rows(poses_path)
    if not pictures or len(table) != len(pictures):
        raise FormatError(
            f"{poses_path}: {len(table)} poses for the {len(pictures)} pictures of {folder / f'image_{camera}'}; "
            "unpack the whole sequence there"
        )
    intrinsics, cam_from_cam0 = _calibration(folder / "calib.txt", camera, *size_px(pictures[0]))
    times = _times(folder / "times.txt", len(pictures))
    frames = []
    for row, picture, time in zip(table, pictures, times, strict=True):
        matrix = row.numbers(0, 12, "the pose").reshape(3, 4)
        world_from_cam0 = rigid(matrix, f"{row.path}:{row.number}")
        path = picture.relative_to(root).as_posix()
        frames.append(
            Frame(path, path, f"P{camera}", world_from_cam0 @ cam_from_cam0.inv, sequence, "train", time_s=time)
        )
    return Scene(f"kitti-{sequence}", "gps", True, tuple(frames), {f"P{camera}": intrinsics}, root)


def _only_sequence(root: Path) -> str:
    found = [path.stem for path in sorted((root / "poses").glob("*.txt")) if (root / "sequences" / path.stem).is_dir()]
    if len(found) != 1:
        raise SceneError(f"{root}: has the sequences {', '.join(found) or 'none'}; say which one, e.g. sequence='00'")
    return found[0]


def _calibration(path: Path, camera: int, width: int, height: int) -> tuple[Camera, Pose]:
    """Intrinsics of camera N and cam_N_from_cam_0 of the line `PN: 12 numbers`.

    The devkit's pixel centres are whole numbers: half a pixel is added to the principal point.
    """
    for row in rows(path):
        if row.fields[0] == f"P{camera}:":
            projection = Row(path, row.number, row.fields[1:]).numbers(0, 12, f"P{camera}").reshape(3, 4)
            break
    else:
        raise FormatError(f"{path}: no line P{camera}:; take the calib.txt of the odometry benchmark")
    matrix = projection[:, :3]
    if matrix[0, 0] <= 0 or matrix[1, 1] <= 0 or not np.allclose(matrix[[0, 1, 2, 2], [1, 0, 0, 1]], 0.0):
        raise FormatError(f"{path}: P{camera} is not K [I | b] of a rectified camera")
    intrinsics = Camera(width, height, matrix[0, 0], matrix[1, 1], matrix[0, 2] + 0.5, matrix[1, 2] + 0.5)
    return intrinsics, Pose(np.eye(3), np.linalg.inv(matrix) @ projection[:, 3])


def _times(path: Path, count: int) -> list[float | None]:
    if not path.is_file():
        return [None] * count
    times: list[float | None] = [row.number_at(0, "the time") for row in rows(path)]
    if len(times) != count:
        raise FormatError(f"{path}: {len(times)} times for {count} pictures; unpack the whole sequence there")
    return times
