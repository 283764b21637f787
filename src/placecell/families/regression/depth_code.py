"""Depth pictures as three channels that a network trained on colour can begin with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placecell.camera import Camera

MIDDLE_M = 2.0
"""The depth that is coded as 0: where things stand in a room."""


def encode_depth(depth_m: NDArray[np.floating], camera: Camera | None = None) -> NDArray[np.float32]:
    """The code (H, W, 3) of a depth picture (H, W): the surface normal's x and y, then depth, all in -1 to 1.

    Li et al. 2018 (dual-stream convnets for indoor relocalization) code depth as MND, "minimised normal + depth". We
    could not read the formula. Our reading: a normal has length 1 and faces the camera, so that x and y in camera
    axes say all of it (the "minimised" normal), and depth is the third channel, here (z - 2 m) / (z + 2 m), which
    needs no largest depth. Depth that is missing (NaN, infinite, 0 or less) is (0, 0, -1), which means no distance at
    all; a normal that has no neighbours to be read from is (0, 0).

    Args:
        depth_m: z in camera axes, metres.
        camera: the pinhole it belongs to; None takes the picture as wide as its focal length is long (53 degrees),
            which is near enough for the sensors in use, as long as training and use agree.
    """
    height, width = depth_m.shape
    lens = Camera.from_focal(width, height, width) if camera is None else camera
    known = np.isfinite(depth_m) & (depth_m > 0)
    depth = np.where(known, depth_m, np.nan).astype(np.float64)
    code = np.zeros((height, width, 3), np.float32)
    code[..., :2] = np.where(known[..., None], np.nan_to_num(_normals(depth, lens)[..., :2]), 0.0)
    code[..., 2] = np.where(known, (depth - MIDDLE_M) / (depth + MIDDLE_M), -1.0)
    return code


def _normals(depth: NDArray[np.float64], camera: Camera) -> NDArray[np.float64]:
    """Unit normals (H, W, 3) that face the camera, by central differences of the surface points; NaN where unknown."""
    height, width = depth.shape
    if min(height, width) < 2:
        return np.full((height, width, 3), np.nan)
    x, y = np.arange(width) + 0.5 - camera.cx, np.arange(height) + 0.5 - camera.cy
    rays = np.stack(np.broadcast_arrays(x / camera.fx, y[:, None] / camera.fy, 1.0), axis=-1)
    points_cam = rays * depth[..., None]
    down, right = np.gradient(points_cam, axis=(0, 1))
    normal = np.cross(down, right)  # y cross x is -z: towards the camera
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        normals: NDArray[np.float64] = normal / np.where(length > 0, length, np.nan)
    return normals
