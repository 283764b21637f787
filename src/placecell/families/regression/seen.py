"""Which points each training frame sees, for the losses that look at the scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from placecell.anchor import Anchor, Floats
from placecell.camera import Camera
from placecell.errors import MapError
from placecell.images import read_depth, register_depth
from placecell.log import Log
from placecell.parallel import in_parallel
from placecell.pose import Array
from placecell.scene import Frame, Scene
from placecell.views import has_depth, has_points, points_by_frame

_GRID_PX = 24
"""Shorter side of the grid of depth pixels that stand for points where a scene has none."""
_NEAREST, _FARTHEST = 2.5, 97.5
"""Percentiles of the depths that count as near and far."""
_LEAST_RATIO = 1.01
"""Of far to near: before a bare wall they would be one, and an interval of no length has no mean."""


def seen_points(scene: Scene, frames: Sequence[Frame], anchor: Anchor, camera: Camera, log: Log) -> list[Floats]:
    """(M, 3) points in the frame of the anchor that each frame sees: the scene's, else a grid of its depth pixels.

    Raises:
        MapError: as `require_points`.
    """
    require_points(scene, frames)
    if has_points(scene, frames):
        seen = points_by_frame(scene, frames)
        return [anchor.points(seen[frame.name]) for frame in frames]
    scale = _GRID_PX / min(camera.width, camera.height)
    grid = camera.resized(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))
    read = in_parallel(lambda frame: anchor.points(_depth_points(scene, frame, grid)), frames, 2)
    return list(log.track(read, "reading depth", len(frames)))


def require_points(scene: Scene, frames: Sequence[Frame]) -> None:
    """Find out before long work whether `seen_points` has something to work with.

    Raises:
        MapError: the scene has neither points with observations nor depth.
    """
    if not has_depth(scene, frames):
        raise MapError(
            f"scene {scene.name} has neither points nor depth for the reprojection loss; choose another --loss, "
            "or make the scene from its video, whose points placecell scene finds"
        )


def depth_range(
    points: Sequence[NDArray[np.float32]], centres: Floats, rotations: Floats
) -> tuple[float, float] | None:
    """Depths, along z of the frames that see them, between which nearly all points lie; None without points."""
    depths = [
        (seen - centre) @ rotation[:, 2] for seen, centre, rotation in zip(points, centres, rotations, strict=True)
    ]
    ahead = np.concatenate([depth[depth > 0] for depth in depths]) if depths else np.zeros(0)
    if not len(ahead):
        return None
    near, far = np.percentile(ahead, (_NEAREST, _FARTHEST))
    return float(f"{near:.4g}"), float(f"{max(far, _LEAST_RATIO * near):.4g}")


def _depth_points(scene: Scene, frame: Frame, grid: Camera) -> Array:
    """(M, 3) world, what the depth of a frame says at the pixels of a small camera."""
    sensor = scene.depth_sensor
    if sensor is None or frame.depth is None or frame.world_from_cam is None:
        return np.zeros((0, 3))
    depth_m = register_depth(read_depth(scene.root / frame.depth, sensor), sensor, grid)
    rows, columns = np.nonzero(np.isfinite(depth_m))
    rays = grid.rays(np.stack([columns, rows], axis=-1) + 0.5)
    return frame.world_from_cam.apply(rays * depth_m[rows, columns, None])
