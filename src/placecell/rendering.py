"""Pictures of places made of flat textured rectangles: every pixel's surface point, and with it depth, is exact."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from placecell.camera import Camera
from placecell.pose import Array, Pose
from placecell.textures import Texture


@dataclass(frozen=True, eq=False)
class Quad:
    """A textured rectangle, seen from one side: there `edge_u` points right along the texture and `edge_v` down."""

    corner_world: Array
    """(3,) where the texture's outer top-left corner lies."""
    edge_u: Array
    edge_v: Array
    levels: tuple[Texture, ...]
    """The texture, and its halvings for distant views."""


@dataclass(frozen=True, eq=False)
class Room:
    """A place: all its surfaces."""

    quads: tuple[Quad, ...]


@dataclass(frozen=True, eq=False)
class Rendered:
    """A picture with what is exactly known of it."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    depth_m: NDArray[np.float32]
    """(H, W) along z of the camera, at pixel centres; NaN where no surface is."""


def render(
    room: Room,
    camera: Camera,
    world_from_cam: Pose,
    *,
    exposure: float = 1.0,
    noise_seed: int | None = None,
) -> Rendered:
    """What a camera sees: textures filtered for distance, hidden surfaces removed pixel by pixel, vignette, exposure.

    A surface point corner + s u + t v projects to the ray (x, y, 1) with [u v corner] (s, t, 1)ᵀ = z (x, y, 1)ᵀ, all in
    camera axes; so (s, t, 1) / z is linear in the ray, and depth and texture coordinates come without any rounding to
    vertices. `noise_seed` adds sensor noise.
    """
    x, y = _ray_grid(camera)
    cam_from_world = world_from_cam.inv
    nearness = np.zeros((camera.height, camera.width))  # 1 / z of the nearest surface so far
    owner = np.full(nearness.shape, -1, np.int32)
    maps: dict[int, Array] = {}
    for index, quad in enumerate(room.quads):
        st_from_ray = _st_from_ray(quad, cam_from_world)
        window = _window(quad, camera, cam_from_world)
        if st_from_ray is None or window is None:
            continue
        s, t, near = (_linear(row, x, y, window) for row in st_from_ray)
        seen = (near > nearness[window]) & (s >= 0) & (s <= near) & (t >= 0) & (t <= near)
        nearness[window][seen] = near[seen]
        owner[window][seen] = index
        maps[index] = st_from_ray
    image = np.zeros((*nearness.shape, 3), np.uint8)
    for index, st_from_ray in maps.items():
        mask = owner == index
        if mask.any():
            _paint(image, mask, room.quads[index], st_from_ray, camera)
    with np.errstate(divide="ignore"):
        depth_m = np.where(owner >= 0, 1.0 / nearness, np.nan).astype(np.float32)
    return Rendered(_develop(image, exposure, noise_seed), depth_m)


def visible(room: Room, world_from_cam: Pose, points_world: ArrayLike) -> NDArray[np.bool_]:
    """Whether nothing stands between a camera and each point (N, 3) in front of it, by exact intersection.

    A point is hidden when its line of sight meets a rectangle more than a ten-thousandth of the way before it.
    """
    cam_from_world = world_from_cam.inv
    points_cam = cam_from_world.apply(points_world)
    free = points_cam[:, 2] > 0
    for quad in room.quads:
        st_from_ray = _st_from_ray(quad, cam_from_world)
        if st_from_ray is not None:
            # With the point for the ray, the third value is its depth over that of the rectangle.
            s, t, nearer = st_from_ray @ points_cam.T
            free &= ~((nearer > 1 + 1e-4) & (s >= 0) & (s <= nearer) & (t >= 0) & (t <= nearer))
    return free


@lru_cache(maxsize=4)
def _ray_grid(camera: Camera) -> tuple[Array, Array]:
    """x and y of the rays through the pixel centres: (1, W) and (H, 1), or (H, W) both where the lens distorts."""
    if camera.model == "pinhole":
        x: Array = (np.arange(camera.width, dtype=np.float64) + 0.5 - camera.cx) / camera.fx
        y: Array = (np.arange(camera.height, dtype=np.float64) + 0.5 - camera.cy) / camera.fy
        return x[None], y[:, None]
    rays = camera.rays(camera.pixel_centres)
    return rays[..., 0], rays[..., 1]


def _st_from_ray(quad: Quad, cam_from_world: Pose) -> Array | None:
    """(3, 3) from rays (x, y, 1) to (s, t, 1) / z; None where the camera is behind or in the plane of the quad."""
    u, v = cam_from_world.rotation @ quad.edge_u, cam_from_world.rotation @ quad.edge_v
    basis = np.column_stack([u, v, cam_from_world.apply(quad.corner_world)])
    if np.linalg.det(basis) <= 1e-9:  # (u x v) . corner: positive where the textured side faces the camera
        return None
    inverse: Array = np.linalg.inv(basis).astype(np.float64)
    return inverse


def _window(quad: Quad, camera: Camera, cam_from_world: Pose) -> tuple[slice, slice] | None:
    """The rows and columns that a quad can touch; None when it is out of view."""
    if camera.model != "pinhole":
        return np.s_[0 : camera.height, 0 : camera.width]
    u, v = quad.edge_u, quad.edge_v
    corners = cam_from_world.apply(quad.corner_world + np.array([0 * u, u, u + v, v]))
    clipped = _clip_near(corners, near_m=1e-3)
    if len(clipped) == 0:
        return None
    pixels = camera.project(clipped)
    limit = (camera.width, camera.height)
    low = np.clip(np.floor(pixels.min(axis=0)), 0, limit).astype(int)
    high = np.clip(np.ceil(pixels.max(axis=0)), 0, limit).astype(int)
    return None if (low >= high).any() else np.s_[low[1] : high[1], low[0] : high[0]]


def _clip_near(corners_cam: Array, near_m: float) -> Array:
    """The part of a convex polygon with z >= `near_m` (Sutherland and Hodgman)."""
    kept = []
    for start, end in pairwise([*corners_cam, corners_cam[0]]):
        if start[2] >= near_m:
            kept.append(start)
        if (start[2] >= near_m) != (end[2] >= near_m):
            kept.append(start + (near_m - start[2]) / (end[2] - start[2]) * (end - start))
    return np.array(kept).reshape(-1, 3)


def _linear(row: Array, x: Array, y: Array, window: tuple[slice, slice]) -> Array:
    rows, columns = window
    across = row[0] * x[rows if len(x) > 1 else slice(None), columns]
    down = row[1] * y[rows, columns if y.shape[1] > 1 else slice(None)] + row[2]
    total: Array = across + down
    return total


def _paint(image: Texture, mask: NDArray[np.bool_], quad: Quad, st_from_ray: Array, camera: Camera) -> None:
    """Colour the pixels of one quad, blending the two texture sizes nearest to one texel a pixel."""
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    mask = mask[window]
    s_near, t_near, near = (_linear(row, *_ray_grid(camera), window).astype(np.float32) for row in st_from_ray)
    near[~mask] = near[mask][0]
    s, t = s_near / near, t_near / near
    level = np.clip(_level(quad, st_from_ray, near, camera), 0, len(quad.levels) - 1)
    first, last = int(level.min()), int(np.ceil(level.max()))
    colour = _sampled(quad.levels[first], s, t)
    for index in range(first + 1, last + 1):
        share = np.clip(level - (index - 1), 0, 1)
        colour = cv2.blendLinear(colour, _sampled(quad.levels[index], s, t), 1 - share, share)
    cv2.copyTo(colour, mask.astype(np.uint8), image[window])


def _level(quad: Quad, st_from_ray: Array, near: NDArray[np.float32], camera: Camera) -> NDArray[np.float32]:
    """log2 of the texels across a pixel, where `near` is 1 / z.

    The Jacobian of a homography is det / near³. A quarter of the slant's stretch is added to its root: filtering alike
    in all directions has to choose between aliasing along the slant and blurring across it.
    """
    height, width = quad.levels[0].shape[:2]
    area = np.linalg.det(st_from_ray) * width * height / (camera.fx * camera.fy)
    constant = 0.5 * np.log2(area) + 0.25 * np.log2(np.linalg.norm(st_from_ray[2]))
    level: NDArray[np.float32] = np.float32(constant) - np.float32(1.75) * np.log2(near)
    return level


def _sampled(texture: Texture, s: NDArray[np.float32], t: NDArray[np.float32]) -> Texture:
    # Texture coordinates have the outer corner at 0, remap has the first centre at 0.
    u_px, v_px = s * np.float32(texture.shape[1]) - np.float32(0.5), t * np.float32(texture.shape[0]) - np.float32(0.5)
    sampled: Texture = cv2.remap(texture, u_px, v_px, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return sampled


def _develop(image: Texture, exposure: float, noise_seed: int | None) -> Texture:
    """Vignette, exposure, and noise of about two grey values."""
    height, width = image.shape[:2]
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    values = image * (np.float32(exposure) * (1 - np.float32(0.12) * (x * x + y * y)))[..., None]
    if noise_seed is not None:
        noise = np.random.default_rng(noise_seed).standard_normal((height, width, 1), dtype=np.float32)
        values += np.float32(1.5) * noise
    developed: Texture = cv2.convertScaleAbs(np.maximum(values, 0))
    return developed
