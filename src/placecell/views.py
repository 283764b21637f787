"""Pictures of a scene from where none was taken, warped from its own pictures by what is known of their depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import QhullError

from placecell.camera import Camera
from placecell.errors import SceneError
from placecell.images import load_query, read_depth, register_depth
from placecell.log import Log
from placecell.parallel import in_parallel
from placecell.pose import Array, Pose
from placecell.resample import resample
from placecell.scene import Frame, Scene

_SAME_SURFACE = 0.03
"""Relative difference of depth up to which two views are of one surface."""
_NEAREST, _FARTHEST = 5e-4, 5e3
"""Depth outside these shares of the scene's typical depth is none."""
_GUESSED = 5e4
"""Added, times the typical depth, to guessed depth while points compete for a pixel: what was measured always wins."""
_APART = 0.05
"""Sources nearer to each other than this share of the scene's depth see the same, and the second adds nothing."""


@dataclass(frozen=True, eq=False)
class Surfaces:
    """The training pictures of a scene with their depth, all as one small pinhole `camera`."""

    camera: Camera
    images: NDArray[np.uint8]
    """(N, h, w, 3) RGB."""
    depth: NDArray[np.float16]
    """(N, h, w) along z in the unit of the scene; guessed from around where it is not `measured`."""
    measured: NDArray[np.bool_]
    """(N, h, w) where the depth comes from the scene."""
    world_from_cam: tuple[Pose, ...]

    @classmethod
    def of(cls, scene: Scene, frames: Sequence[Frame], camera: Camera, log: Log, *, threads: int = 2) -> Surfaces:
        """From the depth pictures of posed frames, else from the points they see.

        Raises:
            SceneError: the scene has neither depth nor points.
        """
        if not has_depth(scene, frames):
            raise SceneError(
                f"scene {scene.name} has neither depth pictures nor points, so nothing to make new views from; pass "
                "--new-views 0, or make the scene from its video, whose points placecell scene finds"
            )
        seen = points_by_frame(scene, frames)

        def read(index: int) -> tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.bool_]]:
            frame = frames[index]
            query = load_query(scene, frame)
            depth = depth_of(scene, frame, camera, seen.get(frame.name))
            return resample(query.image, query.camera, camera), _guessed(depth).astype(np.float16), np.isfinite(depth)

        found = list(log.track(in_parallel(read, range(len(frames)), threads), "reading depth", len(frames)))
        poses = tuple(frame.world_from_cam for frame in frames if frame.world_from_cam is not None)
        images, depth, measured = (np.stack(part) for part in zip(*found, strict=True))
        return cls(camera, images, depth, measured, poses)

    def view(self, world_from_view: Pose, *, sources: int = 4) -> View:
        """What `camera` would see from another pose, as far as the `sources` nearest pictures know it.

        The depth of the new view is the nearest of the sources' points that fall on a pixel, cracks between them
        closed; each pixel then fetches its colour from the nearest source that sees that surface. Pixels that no
        source sees are filled smoothly from around them, and not `known`.
        """
        chosen = self._nearest(world_from_view, sources)
        depth, guessed = self._splat(world_from_view, chosen)
        image = np.zeros_like(self.images[0])
        known = np.zeros(depth.shape, bool)
        points_world = world_from_view.apply(self._rays * np.where(np.isfinite(depth), depth, 1.0)[..., None])
        for index in chosen:
            missing = np.isfinite(depth) & ~known
            colour, agrees = self._fetch(index, points_world)
            fresh = missing & agrees
            image[fresh], known = colour[fresh], known | fresh
        return View(
            _filled(image.astype(np.float32), known).astype(np.uint8),
            known,
            np.where(known & ~guessed, depth, np.nan).astype(np.float32),
        )

    @cached_property
    def _rays(self) -> Array:
        """(h, w, 3) through the pixels, z = 1."""
        return self.camera.rays(self.camera.pixel_centres)

    @cached_property
    def _centres(self) -> Array:
        """(N, 3) where the pictures were taken."""
        return np.array([pose.translation for pose in self.world_from_cam])

    @cached_property
    def _ahead(self) -> Array:
        """(N, 3) where they look."""
        return np.array([pose.rotation[:, 2] for pose in self.world_from_cam])

    @cached_property
    def _sources(self) -> NDArray[np.intp]:
        """Pictures of which some depth is measured; that of the others is made up from nothing."""
        return np.flatnonzero(self.measured.any(axis=(1, 2)))

    @cached_property
    def _typical(self) -> float:
        """The depth that lengths are compared with."""
        some = self._sources[:: max(1, len(self._sources) // 16)]
        return float(np.median(self.depth[some].astype(np.float32))) if len(some) else 1.0

    def _nearest(self, pose: Pose, count: int) -> list[int]:
        """Pictures that see most of the same, each from somewhere else than those before it."""
        centres, ahead = self._centres, self._ahead
        distance = np.linalg.norm(centres - pose.translation, axis=1) / self._typical
        away = (distance + _angles(ahead, pose.rotation[:, 2]))[self._sources]
        chosen: list[int] = []
        for index in self._sources[np.argsort(away, kind="stable")]:
            moved = np.linalg.norm(centres[chosen] - centres[index], axis=1) / self._typical
            if not chosen or float((moved + _angles(ahead[chosen], ahead[index])).min()) > _APART:
                chosen.append(int(index))
            if len(chosen) == count:
                break
        return chosen

    def _splat(self, world_from_view: Pose, chosen: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(h, w) depth of the new view from the points of the chosen pictures, NaN where none falls; where guessed."""
        camera, rays = self.camera, self._rays.astype(np.float32)
        least, guessed = (np.float32(share * self._typical) for share in (_NEAREST, _GUESSED))
        nearest = np.full(camera.width * camera.height, np.inf, np.float32)
        for index in chosen:
            view_from_cam = world_from_view.inv @ self.world_from_cam[index]
            points = (
                rays * self.depth[index].astype(np.float32)[..., None] @ view_from_cam.rotation.T.astype(np.float32)
            )
            points += view_from_cam.translation.astype(np.float32)
            ahead = points[..., 2] > least
            points, behind = points[ahead], np.where(self.measured[index][ahead], np.float32(0), guessed)
            column = np.floor(points[:, 0] / points[:, 2] * camera.fx + camera.cx).astype(np.int32)
            row = np.floor(points[:, 1] / points[:, 2] * camera.fy + camera.cy).astype(np.int32)
            inside = (column >= 0) & (row >= 0) & (column < camera.width) & (row < camera.height)
            np.minimum.at(nearest, row[inside] * camera.width + column[inside], (points[:, 2] + behind)[inside])
        size, made_up = (camera.height, camera.width), nearest >= guessed
        nearest -= np.where(made_up, guessed, np.float32(0))  # infinite stays infinite
        depth = _closed(nearest.reshape(size), np.float32(_FARTHEST * self._typical))
        return depth, made_up.reshape(size) & np.isfinite(nearest.reshape(size))

    def _fetch(self, index: int, points_world: Array) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Colours (h, w, 3) of surface points in one picture, and where it sees that surface."""
        camera, points = self.camera, self.world_from_cam[index].inv.apply(points_world).astype(np.float32)
        least = np.float32(_NEAREST * self._typical)
        ahead = np.maximum(points[..., 2], least)
        u_px = points[..., 0] / ahead * np.float32(camera.fx) + np.float32(camera.cx - 0.5)
        v_px = points[..., 1] / ahead * np.float32(camera.fy) + np.float32(camera.cy - 0.5)
        depth = self.depth[index].astype(np.float32)
        there = cv2.remap(depth, u_px, v_px, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=np.nan)
        agrees = (points[..., 2] > least) & (np.abs(there - points[..., 2]) < _SAME_SURFACE * points[..., 2])
        return np.asarray(
            cv2.remap(self.images[index], u_px, v_px, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        ), agrees


@dataclass(frozen=True, eq=False)
class View:
    """A picture that nobody took."""

    image: NDArray[np.uint8]
    """(h, w, 3) RGB, holes filled."""
    known: NDArray[np.bool_]
    """(h, w) where its colours come from a picture."""
    depth: NDArray[np.float32]
    """(h, w) along z in the unit of the scene, NaN where not known, or guessed from around."""


def has_depth(scene: Scene, frames: Sequence[Frame]) -> bool:
    """Whether `Surfaces.of` has something to work with: depth pictures of the frames, or points that they see.

    Depth pictures are metres, so in a scene that is not metric they say nothing of its surfaces.
    """
    pictures = scene.metric and scene.depth_sensor is not None and any(frame.depth is not None for frame in frames)
    return pictures or has_points(scene, frames)


def has_points(scene: Scene, frames: Sequence[Frame]) -> bool:
    """Whether some of the frames are known to see points of the scene."""
    wanted = {frame.name for frame in frames}
    rows = [row for row, frame in enumerate(scene.frames) if frame.name in wanted]
    return scene.points is not None and bool(np.isin(scene.points.seen_frame, rows).any())


def depth_of(scene: Scene, frame: Frame, camera: Camera, points_world: Array | None) -> NDArray[np.float32]:
    """(h, w) depth along z that `camera` at the place of a frame sees, scene units, NaN where unknown.

    From its depth picture where the scene is metric, else between the points (M, 3) it sees; each pixel its nearest.
    """
    if frame.depth is not None and scene.depth_sensor is not None and scene.metric:
        sensor = scene.depth_sensor
        return register_depth(read_depth(scene.root / frame.depth, sensor), sensor, camera)
    if points_world is None or frame.world_from_cam is None:
        return np.full((camera.height, camera.width), np.nan, np.float32)
    return _depth_from_points(frame.world_from_cam.inv.apply(points_world), camera)


def _depth_from_points(points_cam: Array, camera: Camera) -> NDArray[np.float32]:
    """Depth between the points of a picture, over the triangles of Delaunay: linear in 1 / z, as planes are."""
    pixels = camera.project(points_cam)
    inside = camera.contains(pixels)
    empty = np.full((camera.height, camera.width), np.nan, np.float32)
    if np.count_nonzero(inside) < 8:
        return empty
    try:
        surface = LinearNDInterpolator(pixels[inside], 1.0 / points_cam[inside, 2])
    except (QhullError, ValueError):  # all in one line
        return empty
    with np.errstate(divide="ignore"):
        depth: NDArray[np.float32] = (1.0 / surface(camera.pixel_centres)).astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))


def points_by_frame(scene: Scene, frames: Sequence[Frame]) -> dict[str, Array]:
    """The points (M, 3) of the scene that each frame sees, by the frame's name."""
    points = scene.points
    if points is None:
        return {}
    wanted, seen = {frame.name for frame in frames}, points.seen_by(len(scene.frames))
    return {
        frame.name: points.points_world[seen[index]] for index, frame in enumerate(scene.frames) if frame.name in wanted
    }


def _angles(directions_N3: Array, direction_3: Array) -> Array:
    """(N,) angles between unit vectors and another, in radians."""
    sine = np.linalg.norm(np.cross(directions_N3, direction_3), axis=-1)
    angles: Array = np.arctan2(sine, directions_N3 @ direction_3)
    return angles


def _closed(nearest: NDArray[np.float32], far: np.float32) -> NDArray[np.float32]:
    """Depth (h, w), inf where nothing fell, with cracks closed: a pixel takes the median of what fell around it.

    `far` is beyond all depth.
    """
    # A far surface shines through the cracks of a near one: the median of the neighbours takes it out, too.
    depth = np.where(np.isfinite(nearest), nearest, far)
    closed = cv2.erode(cv2.dilate(-depth, np.ones((3, 3))), np.ones((3, 3))) * np.float32(-1)
    depth = cv2.medianBlur(np.where(depth >= far, closed, depth).astype(np.float32), 3)
    return np.where(depth < far, depth, np.float32(np.nan))


def _guessed(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Depth (h, w) with NaN replaced by guesses from around, in 1 / z; 1 all over where nothing is known."""
    known = np.isfinite(depth)
    if not known.any():
        return np.ones_like(depth)
    inverse = np.where(known, 1.0 / np.where(known, depth, 1.0), 0.0)[..., None].astype(np.float32)
    return np.asarray(1.0 / _filled(inverse, known)[..., 0], dtype=np.float32)


def _filled(image: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Unknown pixels from known ones around them: averages over ever larger squares, the smallest that knows wins."""
    weight, colour = known.astype(np.float32), image * known[..., None]
    levels = [(colour, weight)]
    while min(weight.shape) > 1:
        size = (max(1, weight.shape[1] // 2), max(1, weight.shape[0] // 2))
        colour = cv2.resize(colour, size, interpolation=cv2.INTER_AREA).reshape(*size[::-1], -1)
        weight = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
        levels.append((colour, weight))
    guess = colour
    for colour, weight in reversed(levels):
        guess = np.asarray(cv2.resize(guess, weight.shape[::-1], interpolation=cv2.INTER_LINEAR)).reshape(colour.shape)
        share = weight[..., None]
        guess = np.where(share > 0, colour / np.maximum(share, 1e-6), guess)
    return np.where(known[..., None], image, guess)
