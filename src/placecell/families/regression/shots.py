"""The frames a network learns from and is judged by: pictures decoded once, as one camera, with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from placecell.anchor import Anchor, Floats
from placecell.camera import Camera
from placecell.errors import MapError
from placecell.families.regression.sight import depth_as
from placecell.images import detail, load_query
from placecell.log import Log
from placecell.resample import resample
from placecell.scene import Frame, Scene
from placecell.train.pictures import Pictures, files_identity


@dataclass(frozen=True, eq=False)
class Shots:
    """N pictures at one camera with their poses `anchor_from_cam`."""

    names: tuple[str, ...]
    camera: Camera
    images: NDArray[np.uint8]
    """(N, h, w, 3) RGB, usually of a file mapped into memory."""
    centres: Floats
    """(N, 3) scene units."""
    rotations: Floats
    """(N, 3, 3)."""
    details: NDArray[np.float64]
    """(N,) `sight.detail` of each."""
    depths: NDArray[np.float32] | None = None
    """(N, h, w) metres along z, NaN where unknown."""
    surfaces: NDArray[np.float16] | None = None
    """(N, h', w') depth in the middle of each square of a few pixels (`novel.CELL_PX`), scene units; NaN if unknown."""

    def __len__(self) -> int:
        return len(self.names)

    def first(self, count: int) -> Shots:
        """The first so many."""
        depths = None if self.depths is None else self.depths[:count]
        parts = (self.images[:count], self.centres[:count], self.rotations[:count], self.details[:count])
        return Shots(self.names[:count], self.camera, *parts, depths=depths)


def shots_of(
    scene: Scene, frames: Sequence[Frame], camera: Camera, anchor: Anchor, *, depth: bool, folder: Path, log: Log
) -> Shots:
    """The posed frames of a scene, their pictures resampled to `camera` into files in `folder`.

    Raises:
        ImageError: a picture or its depth cannot be read.
        MapError: as `require_depth`, where depth is asked for.
    """
    if depth:
        require_depth(scene, frames)

    def picture(index: int) -> NDArray[np.uint8]:
        query = load_query(scene, frames[index])
        return resample(query.image, query.camera, camera)

    def depth_picture(index: int) -> NDArray[np.float32]:
        query = load_query(scene, frames[index], depth=True)
        if query.depth_m is None:
            raise MapError(_without_depth(scene, query.name))
        return depth_as(query.depth_m, query.camera, camera)[..., None]

    told: dict[str, Any] = {"identity": files_identity(scene, frames, camera), "log": log}
    size, count = (camera.height, camera.width), len(frames)
    images = Pictures.decode(folder / "pictures", count, (*size, 3), picture, **told).images
    depths: NDArray[np.float32] | None = None
    if depth:
        told |= {"what": "reading depth", "dtype": np.float32}
        depths = Pictures.decode(folder / "depth", count, (*size, 1), depth_picture, **told).images[..., 0]
    labels = anchor.labels([frame.world_from_cam for frame in frames if frame.world_from_cam is not None])
    details = np.array([detail(image) for image in images])
    names = tuple(frame.name for frame in frames)
    return Shots(names, camera, images, labels.centres, labels.rotations, details, depths)


def require_depth(scene: Scene, frames: Sequence[Frame]) -> None:
    """Find out before long work whether every frame has depth.

    Raises:
        MapError: one has none.
    """
    for frame in frames:
        if frame.depth is None or scene.depth_sensor is None:
            raise MapError(_without_depth(scene, frame.name))


def _without_depth(scene: Scene, name: str) -> str:
    return f"scene {scene.name}: frame {name} has no depth; leave out --depth, or the frame"
