"""Pictures and depth as a network sees them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from placecell.camera import Camera
from placecell.families.regression.depth_code import encode_depth
from placecell.images import register_depth
from placecell.pose import Array, Pose
from placecell.scene import DepthSensor


def depth_tensor(depths_m: Sequence[tuple[NDArray[np.float32], Camera]]) -> Tensor:
    """(B, 3, H, W) encoded depth of metres (H, W) with the pinholes they belong to."""
    codes = np.stack([encode_depth(depth_m, camera) for depth_m, camera in depths_m])
    return torch.from_numpy(codes).permute(0, 3, 1, 2)


def depth_as(depth_m: NDArray[np.float32], camera: Camera, target: Camera) -> NDArray[np.float32]:
    """(H, W) depth as another camera at the same place measures it, by its nearest point in each pixel."""
    return register_depth(depth_m, DepthSensor(camera, Pose.identity()), target)


def turned_depth(
    depth_m: NDArray[np.float32], camera: Camera, target: Camera, source_from_target: Array
) -> NDArray[np.float32]:
    """(H, W) depth along the z of a turned pinhole, NaN past the picture: each target pixel looks up its ray.

    A point at depth z along the ray K⁻¹u of the source lies at z (R' K⁻¹u)_z in the target, R' its rotation.
    """
    rays = target.rays(target.pixel_centres) @ source_from_target.T
    ahead = np.where(rays[..., 2] > 1e-6, rays[..., 2], np.nan)
    pixels = np.nan_to_num(rays[..., :2] / ahead[..., None] * (camera.fx, camera.fy) + (camera.cx, camera.cy), nan=-1e4)
    u_px, v_px = np.moveaxis((pixels.clip(-1e4, 1e4) - 0.5).astype(np.float32), -1, 0)
    found = cv2.remap(depth_m, u_px, v_px, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=np.nan)
    return np.asarray(found / ahead, dtype=np.float32)  # the ray has z 1 in the target and `ahead` in the source
