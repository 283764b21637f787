"""A camera that walks sideways past the furniture of the rendered room: easy for structure from motion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.pose import Pose
from placecell.rendering import render
from placecell.synthetic import room

CAMERA = Camera.from_focal(320, 240, 270.0)


def poses(count: int, *, step_m: float = 0.1) -> list[Pose]:
    """Facing one wall, moving along it, now and then nearer to it and turned a little."""
    found = []
    for index in range(count):
        centre = np.array([1.6 + 0.15 * np.sin(1.3 * index), 1.2 + step_m * index, 1.5 + 0.1 * np.cos(0.9 * index)])
        forward = np.column_stack([[0, -1, 0], [0, 0, -1], [1, 0, 0]]).astype(float)
        found.append(Pose(forward, centre) @ Pose.exp([0.05 * np.sin(index), 0.25 - 0.04 * index, 0.02, 0, 0, 0]))
    return found


def images(world_from_cam: list[Pose]) -> list[NDArray[np.uint8]]:
    """What it sees."""
    place = room(0)
    return [render(place, CAMERA, pose).image for pose in world_from_cam]


def frame_name(index: int) -> str:
    """The name of a frame of a video."""
    return f"frame-{index:06d}.jpg"


def truths(count: int) -> dict[str, Pose]:
    """The poses by the names of the frames."""
    return {frame_name(index): pose for index, pose in enumerate(poses(count))}


def photo_paths(folder: Path, count: int) -> list[Path]:
    """The pictures as files."""
    from placecell.images import write_jpeg

    paths = [folder / frame_name(index) for index in range(count)]
    for path, image in zip(paths, images(poses(count)), strict=True):
        write_jpeg(path, image)
    return paths
