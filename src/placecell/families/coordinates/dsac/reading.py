"""From the frames of a scene to what a network learns from: pictures of one camera, and what its start is to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from placecell.anchor import Anchor
from placecell.camera import Camera
from placecell.errors import MapError
from placecell.families.coordinates.dsac.config import Dsac, Start
from placecell.families.coordinates.dsac.shots import Floats, Shots
from placecell.images import LEAST_DETAIL, detail, load_query
from placecell.log import Log
from placecell.resample import resample
from placecell.scene import Frame, Scene
from placecell.spacing import evenly
from placecell.train.holdout import held_out
from placecell.train.pictures import Pictures, files_identity
from placecell.views import depth_of, has_points, points_by_frame


def chosen(config: Dsac, scene: Scene) -> tuple[list[Frame], list[Frame]]:
    """Which frames are learned from, and which the training is judged by.

    Raises:
        MapError: no posed training frame, or none of what they are to start from.
    """
    frames = scene.split("train").posed
    if not frames:
        raise MapError(f"scene {scene.name} has no posed training frame; label some, or choose another scene")
    if config.start == "depth":
        if scene.depth_sensor is None or not any(frame.depth is not None for frame in frames):
            raise MapError(
                f"scene {scene.name} has no depth pictures to start from; try --start points or --start reprojection"
            )
        if not scene.metric:
            raise MapError(f"scene {scene.name} is not in metres, as its depth is; align it, or try --start points")
    if config.start == "points" and not has_points(scene, frames):
        raise MapError(f"scene {scene.name} has no points to start from; try --start reprojection")
    if config.rgbd:
        frames = tuple(frame for frame in frames if frame.depth is not None)
    held = held_out(frames, config.validation)
    rest = [frame for index, frame in enumerate(frames) if index not in held]
    if config.frames > 0:
        rest = evenly(rest, config.frames)
    return rest, [frames[index] for index in sorted(held)]


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads frames once, into files in `folder` that later readings take."""

    scene: Scene
    frames: Sequence[Frame]
    camera: Camera
    """What all pictures are resampled to."""
    folder: Path
    log: Log

    def shots(self, start: Start, anchor: Anchor) -> Shots:
        """The frames with what a network is to start from.

        Raises:
            ImageError: a picture or its depth cannot be read.
            MapError: there is nothing in any picture, which is told before depth is read.
        """
        images = self._images()
        points: list[Floats] | None = None
        if start == "points":
            seen = points_by_frame(self.scene, self.frames)
            points = [anchor.points(seen[frame.name]) for frame in self.frames]
        labels = anchor.labels([frame.world_from_cam for frame in self.frames if frame.world_from_cam is not None])
        names = tuple(frame.name for frame in self.frames)
        depths = self._depths() if start == "depth" else None
        return Shots(names, self.camera, images, labels.rotations, labels.centres, depths, points)

    def _images(self) -> NDArray[np.uint8]:
        def picture(index: int) -> NDArray[np.uint8]:
            query = load_query(self.scene, self.frames[index])
            return resample(query.image, query.camera, self.camera)

        size = (self.camera.height, self.camera.width, 3)
        images = Pictures.decode(self.folder / "pictures", len(self.frames), size, picture, **self._told).images
        if not len(with_something(images)):
            raise MapError(f"scene {self.scene.name}: there is nothing in its training pictures; are they black?")
        return images

    def _depths(self) -> NDArray[np.float16]:
        """(N, h, w) scene units, NaN where unknown, at half the resolution of the sensor, which leaves no holes."""
        scene, camera, sensor = self.scene, self.camera, self.scene.depth_sensor
        share = 1.0 if sensor is None else min(1.0, 0.5 * sensor.camera.fx / camera.fx)
        lens = camera.resized(max(1, round(share * camera.width)), max(1, round(share * camera.height)))

        def depth(index: int) -> NDArray[np.float16]:
            return np.asarray(depth_of(scene, self.frames[index], lens, None)[..., None], np.float16)

        told: dict[str, Any] = {**self._told, "what": "reading depth", "dtype": np.float16}
        size = (lens.height, lens.width, 1)
        return Pictures.decode(self.folder / "depth", len(self.frames), size, depth, **told).images[..., 0]

    @property
    def _told(self) -> dict[str, Any]:
        return {"identity": files_identity(self.scene, self.frames, self.camera), "log": self.log}


def with_something(images: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Which of some pictures show anything."""
    return np.flatnonzero(np.array([detail(image) for image in images]) >= LEAST_DETAIL)
