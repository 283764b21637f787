"""A picture as another camera at the same place would have taken it: other size, lens or direction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from placecell.camera import Camera
from placecell.pose import Array


def canonical_camera(cameras: Sequence[Camera], short_side_px: int) -> Camera:
    """The commonest of some cameras without its distortion, its shorter side `short_side_px`; the one all pictures of
    a map are resampled to, so that a mixed bag of cameras looks the same to it."""
    (camera, _), *_ = Counter(cameras).most_common(1)
    scale = short_side_px / min(camera.width, camera.height)
    return camera.pinhole.resized(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))


def resample(
    image: NDArray[np.uint8],
    camera: Camera,
    target: Camera,
    *,
    target_from_cam: Array | None = None,
    fill: ArrayLike | None = None,
) -> NDArray[np.uint8]:
    """What `target` sees of the rays that `camera` caught in `image` (H, W, 3), RGB uint8.

    Between cameras with one centre this needs no depth and is exact: for pinholes it is the homography
    K' R K⁻¹ with R = `target_from_cam` (3, 3), identity if None; for lenses with distortion the map through the rays.
    Where the target looks past the picture, its border is repeated, or there is `fill` (3,). Shrinking to half of
    the size and less averages first.

    Raises:
        ValueError: the camera is not of the size of the image.
    """
    if image.shape[:2] != (camera.height, camera.width):
        raise ValueError(f"camera is for {camera.width}x{camera.height} px, the image is {image.shape}")
    if target_from_cam is None and target == camera.resized(target.width, target.height):
        return _resized(image, target.width, target.height)
    image, camera = shrunk(image, camera, target, beyond=_HALF)
    size = (target.width, target.height)
    border = {} if fill is None else {"borderMode": cv2.BORDER_CONSTANT, "borderValue": np.asarray(fill).tolist()}
    options = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE, **border}
    if target_from_cam is None and camera.model == target.model == "pinhole":
        along_u, along_v = target.fx / camera.fx, target.fy / camera.fy
        u_px, v_px = target.cx - 0.5 - along_u * (camera.cx - 0.5), target.cy - 0.5 - along_v * (camera.cy - 0.5)
        placed = np.array([[along_u, 0.0, u_px], [0.0, along_v, v_px]])
        return _as_rgb(cv2.warpAffine(image, placed, size, **options))
    rotation = np.eye(3) if target_from_cam is None else target_from_cam
    # Half a turn of the head and more puts rays behind the camera, where a homography would mirror them.
    if camera.model == target.model == "pinhole" and np.trace(rotation) > 2:
        homography = _SHIFT @ target.matrix @ rotation @ np.linalg.inv(camera.matrix) @ np.linalg.inv(_SHIFT)
        return _as_rgb(cv2.warpPerspective(image, homography, size, **options))
    pixels = camera.project(target.rays(target.pixel_centres) @ rotation) - 0.5
    # cv2 has no place for "nowhere": far outside it repeats a corner, or is black.
    u_px, v_px = np.moveaxis(np.nan_to_num(pixels, nan=-1e4).clip(-1e4, 1e4).astype(np.float32), -1, 0)
    return _as_rgb(cv2.remap(image, u_px, v_px, interpolation=options.pop("flags"), **options))


def shrunk(
    image: NDArray[np.uint8], camera: Camera, target: Camera, *, beyond: float = 0.9
) -> tuple[NDArray[np.uint8], Camera]:
    """The picture averaged to the resolution of the target, pixels per radian; where that is `beyond` its own or more,
    as it is."""
    scale = max(target.fx / camera.fx, target.fy / camera.fy)
    if scale > beyond:
        return image, camera
    width, height = max(1, round(camera.width * scale)), max(1, round(camera.height * scale))
    averaged = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return _as_rgb(averaged), camera.resized(width, height)


_HALF = 0.5
"""To more than this size the four pixels about a point leave none out, and take a tenth of the time of averages.
Networks answer as well then; SIFT finds a few points less."""
# Ours has the outer corner of the first pixel at 0, OpenCV its centre.
_SHIFT = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])


def _resized(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    method = cv2.INTER_AREA if width <= _HALF * image.shape[1] else cv2.INTER_LINEAR
    return _as_rgb(cv2.resize(image, (width, height), interpolation=method))


def _as_rgb(image: object) -> NDArray[np.uint8]:
    return np.asarray(image, dtype=np.uint8)
