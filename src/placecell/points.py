"""The points of a scene: positions, colours, and where each was seen."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from placecell.errors import FormatError

_PLY_TYPE = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])


@dataclass(frozen=True, eq=False)
class PointCloud:
    """N points in the world and, where they come from structure from motion, M observations of them."""

    points_world: NDArray[np.float64]
    """(N, 3) in the unit of the scene."""
    rgb: NDArray[np.uint8]
    """(N, 3)."""
    seen_point: NDArray[np.int32]
    """(M,) index into the points, or empty."""
    seen_frame: NDArray[np.int32]
    """(M,) index into `Scene.frames` (of the whole scene, all splits)."""
    seen_px: NDArray[np.float32]
    """(M, 2) pixels of the observations."""

    def __post_init__(self) -> None:
        count, seen = len(self.points_world), len(self.seen_point)
        shapes = (self.points_world.shape, self.rgb.shape, self.seen_frame.shape, self.seen_px.shape)
        if shapes != ((count, 3), (count, 3), (seen,), (seen, 2)):
            raise ValueError(f"points do not fit together: {shapes}")
        if seen and not (self.seen_point.min() >= 0 and self.seen_point.max() < count and self.seen_frame.min() >= 0):
            raise ValueError(f"observations name points outside 0..{count - 1}, or frames below 0")

    def seen_by(self, frames: int) -> list[NDArray[np.int32]]:
        """For each of so many frames, which points it sees."""
        order = np.argsort(self.seen_frame, kind="stable")
        borders = np.searchsorted(self.seen_frame[order], np.arange(frames + 1))
        return [self.seen_point[order[begin:end]] for begin, end in pairwise(borders)]

    @classmethod
    def bare(cls, points_world: NDArray[np.float64], rgb: NDArray[np.uint8]) -> PointCloud:
        """Points without observations."""
        none = np.zeros(0, np.int32)
        return cls(points_world, rgb, none, none, np.zeros((0, 2), np.float32))

    def keep_frames(self, wanted: NDArray[np.bool_]) -> PointCloud:
        """The same points with the observations of the wanted frames, renumbered to those frames."""
        kept = wanted[self.seen_frame]
        renumbered = (np.cumsum(wanted) - 1).astype(np.int32)
        return PointCloud(
            self.points_world,
            self.rgb,
            self.seen_point[kept],
            renumbered[self.seen_frame[kept]],
            self.seen_px[kept],
        )

    def __len__(self) -> int:
        return len(self.points_world)


def write_points(points: PointCloud, folder: Path) -> None:
    """Write `points.ply` (binary, float32, colours: any viewer opens it) and, if any, `tracks.safetensors`."""
    rows = np.zeros(len(points), _PLY_TYPE)
    rows["xyz"], rows["rgb"] = points.points_world, points.rgb
    (folder / "points.ply").write_bytes(_ply_header(len(points)) + rows.tobytes())
    if len(points.seen_point):
        tracks = {
            "point": np.ascontiguousarray(points.seen_point, np.int32),
            "frame": np.ascontiguousarray(points.seen_frame, np.int32),
            "pixel": np.ascontiguousarray(points.seen_px, np.float32),
        }
        # Not save_file, whose errors hide a full disk from placecell.atomic.
        (folder / "tracks.safetensors").write_bytes(save(tracks, metadata={"format": "1"}))


def read_points(folder: Path) -> PointCloud | None:
    """Inverse of `write_points`; None when the folder has no points.

    Raises:
        FormatError: a file is damaged, or not a PLY that placecell wrote.
    """
    path = folder / "points.ply"
    if not path.is_file():
        return None
    content = path.read_bytes()
    header, mark, body = content.partition(b"end_header\n")
    if not mark or header + mark != _ply_header(len(body) // _PLY_TYPE.itemsize) or len(body) % _PLY_TYPE.itemsize:
        raise FormatError(f"{path}: truncated, or not a PLY file of placecell; make the scene again")
    rows = np.frombuffer(body, _PLY_TYPE)
    points_world, rgb = rows["xyz"].astype(np.float64), rows["rgb"].copy()
    tracks_path = folder / "tracks.safetensors"
    if not tracks_path.is_file():
        return PointCloud.bare(points_world, rgb)
    try:
        tracks = load_file(tracks_path)
        return PointCloud(points_world, rgb, tracks["point"], tracks["frame"], tracks["pixel"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise FormatError(f"{tracks_path}: damaged ({error}); make the scene again") from error


def _ply_header(count: int) -> bytes:
    return (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
    ).encode("ascii")
