"""What of a structure map a camera can see from about where it is, and how far off its points may fall."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.pnp import projection_jacobian
from placecell.pose import Array, Pose

Points = NDArray[np.intp]

_SIGMAS = 4.0
_FARTHEST_PX = 64.0
_TOLD_BY = 100
"""Points that tell how far off they may fall."""


class Projected(NamedTuple):
    """Points of the map and the pixels they fall on."""

    points: Points
    pixels: Array

    def seen_from(self, points_world: Array, camera: Camera, world_from_cam: Pose) -> Projected:
        """Those of them that fall on the picture of a camera somewhat elsewhere."""
        pixels = camera.project(world_from_cam.inv.apply(points_world[self.points]))
        inside = camera.contains(pixels)
        return Projected(self.points[inside], pixels[inside])


def visible(
    points_world: Array,
    seen_point: NDArray[np.int32],
    seen_start: NDArray[np.int32],
    camera: Camera,
    world_from_cam: Pose,
    pictures: Points,
) -> Projected:
    """The points that a camera should see: those on its picture that some pictures of the map saw.

    Of pictures like its own, that leaves out most of what lies behind a wall, without a model of the walls.

    Args:
        points_world: (N, 3).
        pictures: those of the map that are asked.
        seen_point: (M,) points seen by picture 0, then by picture 1, …
        seen_start: (F + 1,) where each picture's part begins.
    """
    known = np.zeros(len(points_world), dtype=bool)
    for picture in pictures:
        known[seen_point[seen_start[picture] : seen_start[picture + 1]]] = True
    return Projected(np.flatnonzero(known), np.zeros((0, 2))).seen_from(points_world, camera, world_from_cam)


def farthest_px(
    points_world: Array, camera: Camera, world_from_cam: Pose, covariance: Array | None, least_px: float
) -> float:
    """How far from where they should fall points may be, when the pose is as unsure as its (6, 6) covariance says.

    Two and a half standard deviations of a typical point; never less than `least_px`.
    """
    if covariance is None or not len(points_world):
        return _FARTHEST_PX
    some = points_world[:: max(1, len(points_world) // _TOLD_BY)]
    jacobian = projection_jacobian(some, camera, world_from_cam)
    spread = np.trace(jacobian @ covariance @ jacobian.transpose(0, 2, 1), axis1=1, axis2=2)
    return float(np.clip(_SIGMAS * np.sqrt(np.median(spread)), least_px, _FARTHEST_PX))
