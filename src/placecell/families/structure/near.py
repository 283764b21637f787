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


def projected(points: Points, points_world: Array, camera: Camera, world_from_cam: Pose) -> Projected:
    """Those of some points of (N, 3) that fall on the picture of a camera."""
    pixels = camera.project(world_from_cam.inv.apply(points_world[points]))
    inside = camera.contains(pixels)
    return Projected(points[inside], pixels[inside])


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
