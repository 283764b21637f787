"""Training pictures that nobody took, and what is known of the surfaces in those that somebody did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from placecell.anchor import Anchor, Floats
from placecell.camera import Camera
from placecell.families.regression.shots import Shots
from placecell.images import detail
from placecell.log import Log
from placecell.points import PointCloud
from placecell.pose import Array, Pose
from placecell.scene import Frame, Scene
from placecell.train.pictures import Pictures, files_identity
from placecell.views import Surfaces

CELL_PX = 4
"""Known surfaces are kept one depth a square of so many pixels: the middle pixel's."""
_MOST_SOURCES = 2000
"""Pictures that new views are made from, spread evenly: they are all in memory meanwhile."""
_PURPOSE = 3
"""Of the seed."""


@dataclass(frozen=True)
class Wander:
    """How far from where pictures were taken new ones are: standard deviations of normal distributions."""

    distance: float
    """Along each axis, as a share of the depth of a typical surface."""
    turn_deg: float
    """About each axis."""

    def poses(self, from_poses: Sequence[Pose], count: int, seed: int, *, depth: float) -> list[Pose]:
        """New poses, each near one of those given; `depth` is that of a typical surface, scene units."""
        rng = np.random.default_rng([seed, _PURPOSE])
        chosen = rng.integers(0, len(from_poses), count)
        spread = np.repeat([np.radians(self.turn_deg), self.distance * depth], 3)
        return [from_poses[index] @ Pose.exp(rng.normal(0.0, spread)) for index in chosen]


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the surfaces of a scene, as its training pictures see them; read when first asked for."""

    shots: Shots
    """The training pictures."""
    read: Callable[[], Surfaces]
    """Of every `step`-th of them, in the frame of the anchor."""
    step: int
    folder: Path
    identity: str
    log: Log

    @classmethod
    def of(cls, scene: Scene, frames: Sequence[Frame], shots: Shots, anchor: Anchor, folder: Path, log: Log) -> Known:
        """Of the frames that `shots` are of."""
        moved, anchored = _anchored(scene, frames, shots, anchor)
        step, once = -(-len(anchored) // _MOST_SOURCES), Lock()

        @cache
        def kept() -> Surfaces:
            return Surfaces.of(moved, anchored[::step], shots.camera, log)

        def read() -> Surfaces:
            with once:
                return kept()

        identity = f"{scene.fingerprint} {files_identity(scene, frames, shots.camera)} {_digest(scene.points)}"
        return cls(shots, read, step, folder, identity, log)

    def surfaces(self) -> NDArray[np.float16]:
        """(N, h', w') depth in the middle of each cell of the pictures, along z, scene units; NaN where unknown."""

        def measured(index: int) -> NDArray[np.uint8]:
            found, (row, rest) = self.read(), divmod(index, self.step)
            unknown = np.full(found.depth.shape[1:], np.nan, np.float16)
            return _bytes(_thinned(unknown if rest else np.where(found.measured[row], found.depth[row], unknown)))

        rows, columns = _cells(self.shots.camera)
        shape = (1, 1, 2 * rows * columns)
        told: dict[str, Any] = {"identity": self.identity, "log": self.log, "what": "keeping depth"}
        raw = Pictures.decode(self.folder / "surfaces", len(self.shots), shape, measured, **told)
        depth: NDArray[np.float16] = raw.images.reshape(len(self.shots), -1).view(np.float16)
        return depth.reshape(-1, rows, columns)

    def views(self, wander: Wander, count: int, seed: int) -> Shots:
        """So many new views with their surfaces."""
        camera = self.shots.camera
        taken = [_pose(*label) for label in zip(self.shots.rotations, self.shots.centres, strict=True)]
        poses = wander.poses(taken, count, seed, depth=typical_depth(self.surfaces()))
        rounded = [_pose(*_label(pose)) for pose in poses]

        def render(index: int) -> NDArray[np.uint8]:
            view = self.read().view(rounded[index])
            depth = _bytes(_thinned(view.depth).astype(np.float16))
            return np.concatenate([view.image.reshape(1, 1, -1), depth], axis=2)

        rows, columns = _cells(camera)
        pixels, cells = 3 * camera.height * camera.width, 2 * rows * columns
        identity = f"{self.identity} {wander} {count} {seed}"
        told: dict[str, Any] = {"identity": identity, "log": self.log, "what": "rendering new views"}
        raw = Pictures.decode(self.folder / "views", count, (1, 1, pixels + cells), render, **told).images
        # One row a view holds its picture, then its depth: looked at as records, nothing is copied.
        kind = np.dtype([("image", np.uint8, (camera.height, camera.width, 3)), ("depth", np.float16, (rows, columns))])
        records = raw.reshape(count, -1).view(kind)[:, 0]
        labels = [_label(pose) for pose in rounded]
        return Shots(
            camera=camera,
            names=tuple(f"new view {index}" for index in range(count)),
            images=records["image"],
            centres=np.array([centre for _, centre in labels], np.float32),
            rotations=np.array([rotation for rotation, _ in labels], np.float32),
            details=np.array([detail(image) for image in records["image"]]),
            surfaces=records["depth"],
        )


def typical_depth(surfaces: NDArray[np.float16]) -> float:
    """The median of what is known, to three digits; 1 where nothing is."""
    known = surfaces[np.isfinite(surfaces)].astype(np.float32)
    return float(f"{np.median(known):.3g}") if len(known) else 1.0


def surface_targets(
    depth: NDArray[np.float16], camera: Camera, cells: Floats, turn: Array, anchor_from_varied: tuple[Floats, Floats]
) -> tuple[Floats, Floats]:
    """Points (N, 3) in the anchor frame and depths (N,) that the cells of a turned picture show; NaN where unknown.

    Args:
        depth: (h', w') of the picture before it was turned, one a square of `CELL_PX`.
        camera: its camera.
        cells: (N, 3) rays through the middles of the network's cells, z = 1 in the turned camera.
        turn: (3, 3) `cam_from_varied`.
        anchor_from_varied: rotation (3, 3) and centre (3,) of the turned camera.
    """
    rays = cells @ turn.T
    rays = rays / np.where(rays[:, 2:] > 0, rays[:, 2:], np.nan)  # what lies behind was not in the picture
    places = np.nan_to_num(camera.project(rays) / CELL_PX, nan=-1.0).clip(-1, max(depth.shape))
    columns, rows = np.floor(places).astype(np.intp).T
    inside = (rows >= 0) & (columns >= 0) & (rows < depth.shape[0]) & (columns < depth.shape[1])
    found = depth[rows.clip(0, depth.shape[0] - 1), columns.clip(0, depth.shape[1] - 1)].astype(np.float64)
    points_varied = rays * np.where(inside, found, np.nan)[:, None] @ turn
    rotation, centre = anchor_from_varied
    return (points_varied @ rotation.T + centre).astype(np.float32), points_varied[:, 2].astype(np.float32)


def _anchored(scene: Scene, frames: Sequence[Frame], shots: Shots, anchor: Anchor) -> tuple[Scene, tuple[Frame, ...]]:
    """The scene in the frame of the anchor, rounded as the labels are: wherever the world lies, the same to the bit."""
    poses = [_pose(rotation, centre) for rotation, centre in zip(shots.rotations, shots.centres, strict=True)]
    moved = tuple(replace(frame, world_from_cam=pose) for frame, pose in zip(frames, poses, strict=True))
    by_name = {frame.name: frame for frame in moved}
    points = scene.points
    if points is not None:
        points = replace(points, points_world=anchor.points(points.points_world).astype(np.float64))
    everyone = tuple(by_name.get(frame.name, frame) for frame in scene.frames)
    return replace(scene, frames=everyone, points=points), moved


def _digest(points: PointCloud | None) -> str:
    if points is None:
        return "no points"
    parts = (points.points_world, points.seen_point, points.seen_frame)
    return sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def _pose(rotation: Floats, centre: Floats) -> Pose:
    return Pose.nearest(np.column_stack([rotation.astype(np.float64), centre.astype(np.float64)]))


def _label(pose: Pose) -> tuple[Floats, Floats]:
    return pose.rotation.astype(np.float32), pose.translation.astype(np.float32)


def _cells(camera: Camera) -> tuple[int, int]:
    return camera.height // CELL_PX, camera.width // CELL_PX


def _thinned(depth: NDArray[Any]) -> NDArray[Any]:
    """The middle pixel of each cell."""
    rows, columns = depth.shape[0] // CELL_PX, depth.shape[1] // CELL_PX
    middle = depth[CELL_PX // 2 :: CELL_PX, CELL_PX // 2 :: CELL_PX]
    return middle[:rows, :columns]


def _bytes(values: NDArray[np.float16]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values, np.float16).view(np.uint8).reshape(1, 1, -1)
