"""What a forest learns from: pixels of the training frames, and where they look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from placecell.anchor import Anchor
from placecell.camera import Camera
from placecell.errors import MapError
from placecell.estimate import Query
from placecell.families.coordinates.forest.features import DEPTH, GROUPS, Pixels, Planes
from placecell.families.coordinates.forest.growing import Samples
from placecell.images import load_query, register_depth
from placecell.log import Log
from placecell.parallel import in_parallel
from placecell.pose import Array, Pose
from placecell.resample import resample
from placecell.scene import DepthSensor, Frame, Scene
from placecell.views import points_by_frame

THREADS = 2
_RUNS = 5
"""With one, trees know nothing of whole sequences that others are asked about, and the second forest learns to mistrust
answers that are better on new pictures."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Drawing:
    """Which training pixels are drawn."""

    chosen: Mask
    """(trees, frames) which tree learns from which frame."""
    pixels: int
    """Of each frame, at most."""
    seed: int


def chosen(trees: int, frames: int, images: int, seed: int, *, folds: bool = False) -> Mask:
    """(trees, frames) which tree learns from which frame: up to `images` each, at random.

    With `folds` every frame is left out by two trees (if there are three or more), and its neighbours by the same two,
    as they look alike: the frames are cut in so many runs that each tree leaves out `_RUNS` pairs of them.
    """
    mask = np.zeros((trees, frames), bool)
    fold = np.arange(frames) * trees * _RUNS // frames % trees
    for tree, row in enumerate(mask):
        drawn = np.random.default_rng([seed, 0, tree]).permutation(frames)
        if folds and trees > 2:
            drawn = drawn[(fold[drawn] - tree) % trees > 1]
        row[drawn[:images]] = True
    return mask


@dataclass(frozen=True, eq=False)
class Lessons:
    """The training pictures, and what each tree learns from them."""

    planes: Planes
    samples: tuple[Samples, ...]
    """By tree."""


def sight(query: Query, camera: Camera, *, depth: bool) -> Planes:
    """A picture as features of a canonical camera read it; with `depth`, its depth too."""
    image = resample(query.image, query.camera, camera)
    if not depth or query.depth_m is None:
        return Planes.of(camera, image)
    return Planes.of(camera, image, register_depth(query.depth_m, DepthSensor(query.camera, Pose.identity()), camera))


def drawn(query: Query, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Centres (M, 2) of up to `count` pixels with depth, drawn at random, and their points (M, 3) in camera axes."""
    if query.depth_m is None:
        return np.zeros((0, 2)), np.zeros((0, 3))
    seen = np.flatnonzero(np.isfinite(query.depth_m) & (query.depth_m > 0))
    pixels, rays = _rays(query.camera, rng.choice(seen, min(count, len(seen)), replace=False))
    column, row = pixels.astype(np.intp).T
    return pixels, rays * query.depth_m[row, column, None]


def drawn_anywhere(camera: Camera, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Centres (M, 2) of up to `count` pixels of a picture, drawn at random, and their rays (M, 3) with z = 1."""
    total = camera.width * camera.height
    return _rays(camera, rng.choice(total, min(count, total), replace=False))


def _rays(camera: Camera, index: NDArray[np.intp]) -> tuple[Array, Array]:
    """Centres (M, 2) of pixels given by their place in the flat picture, and their rays; those that have one."""
    row, column = np.divmod(index, camera.width)
    pixels = np.stack([column, row], axis=-1) + 0.5
    rays = camera.rays(pixels)
    there = np.isfinite(rays).all(axis=1)
    return pixels[there], rays[there]


def as_pixels(points_cam: Array, camera: Camera, picture: int = 0) -> Pixels:
    """Pixels of the canonical camera at which points (M, 3) in camera axes are seen; of rays with z = 1, those whose
    offsets do not depend on depth."""
    image = points_cam[:, :2] / points_cam[:, 2:]
    u_px, v_px = (image * (camera.fx, camera.fy) + (camera.cx, camera.cy)).astype(np.float32).T
    zoom_px = (camera.fx / points_cam[:, 2]).astype(np.float32)
    return Pixels(np.full(len(u_px), picture, np.int32), u_px, v_px, zoom_px)


def lessons(
    scene: Scene, frames: Sequence[Frame], camera: Camera, anchor: Anchor, drawing: Drawing, features: str, log: Log
) -> Lessons:
    """Read posed frames of a scene; blank pictures, and those of which nothing is known, teach nothing.

    Where pixels look is known from depth, and for features that need none, else from the points that a frame sees.

    Raises:
        ImageError: a picture or its depth cannot be read.
        MapError: nothing can be learned from any of them.
    """
    poses = anchor.labels([frame.world_from_cam for frame in frames if frame.world_from_cam is not None])
    adapts, depth = features != "rgb", DEPTH in GROUPS[features]
    seen = {} if adapts else points_by_frame(scene, frames)

    def read(index: int) -> tuple[Planes, list[Samples]] | None:
        frame = frames[index]
        if load_query(scene, frame).defect is not None:
            return None
        query = load_query(scene, frame, depth=scene.metric)
        rng = np.random.default_rng([drawing.seed, 1, index])
        rotation, centre = (part[index].astype(np.float64) for part in (poses.rotations, poses.centres))
        taught = []
        for learns in drawing.chosen[:, index]:
            count = drawing.pixels if learns else 0
            if query.depth_m is None and frame.world_from_cam is not None and frame.name in seen:
                points_cam = _visible(frame.world_from_cam.inv.apply(seen[frame.name]), query.camera, count, rng)
            else:
                _, points_cam = drawn(query, count, rng)
            points = (points_cam @ rotation.T + centre).astype(np.float32)
            looked = points_cam if adapts else points_cam / points_cam[:, 2:]
            taught.append(Samples(as_pixels(looked, camera, index), points))
        return sight(query, camera, depth=depth), taught

    values = np.zeros((len(frames), 4 if depth else 3, camera.height, camera.width), np.int16)
    by_frame = []
    found = in_parallel(read, range(len(frames)), THREADS)
    for index, part in enumerate(log.track(found, "reading frames", len(frames))):
        if part is not None:
            values[index] = part[0].values[0]
            by_frame.append(part[1])
    samples = tuple(joined(part) for part in zip(*by_frame, strict=True))
    if not samples or not min(len(part.points) for part in samples):
        raise MapError(f"scene {scene.name}: nothing is in its training pictures or their depth; are they black?")
    return Lessons(Planes(camera, values), samples)


def _visible(points_cam: Array, camera: Camera, count: int, rng: np.random.Generator) -> Array:
    """Up to `count` of some points (M, 3) in camera axes, of those on the picture."""
    inside = points_cam[camera.contains(camera.project(points_cam))]
    return inside[rng.permutation(len(inside))[:count]]


def joined(parts: Sequence[Samples]) -> Samples:
    """The samples of several frames or trees."""
    arrays = [(s.pixels.picture, s.pixels.u_px, s.pixels.v_px, s.pixels.zoom_px, s.points) for s in parts]
    picture, u_px, v_px, zoom_px, points = (np.concatenate(part) for part in zip(*arrays, strict=True))
    return Samples(Pixels(picture, u_px, v_px, zoom_px), points)
