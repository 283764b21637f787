"""What a forest asks of a pixel: how two places near it differ, in colour, in depth, or in where they may look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from placecell.camera import Camera

Group = tuple[int, ...]
"""Planes that may be compared with each other."""
COLOUR: Group = (0, 1, 2)
DEPTH: Group = (3,)
CONTEXT: tuple[Group, ...] = ((3, 6), (4, 6), (5, 6))
"""The coordinates that another forest gives, each with a plane of zeros, so that it may be asked for itself, too."""
GROUPS: dict[str, tuple[Group, ...]] = {
    "da-rgb": (COLOUR,),
    "da-rgb+d": (COLOUR, DEPTH),
    "depth": (DEPTH,),
    "rgb": (COLOUR,),
}
"""What each set of features compares; equally often, where there are several groups."""
WITH_CONTEXT: tuple[Group, ...] = (*(COLOUR,) * 9, *CONTEXT)
"""Of a forest that reads another: colours more often, as leaves found by coordinates alone are as coarse as those."""
FARTHEST_MM = 32_000
"""What the plane of depth says where nothing is measured, and beyond."""
EDGE_MM = 500
"""Depths across one surface hardly differ by more; what does is told apart from it by one threshold."""


@dataclass(frozen=True, eq=False)
class Planes:
    """N pictures as features read them, of one canonical pinhole camera."""

    camera: Camera
    values: NDArray[np.int16]
    """(N, C, h, w): red, green, blue 0 to 255, then what features ask for: depth in millimetres, or `CONTEXT`."""
    edge: int = EDGE_MM
    """Values that differ by more differ by this."""

    @classmethod
    def of(cls, camera: Camera, image: NDArray[np.uint8], depth_m: NDArray[np.float32] | None = None) -> Planes:
        """One picture (h, w, 3) of the canonical camera, with its depth (h, w), NaN where unknown, if there is some."""
        planes = [*image.transpose(2, 0, 1).astype(np.int16)]
        if depth_m is not None:
            far = np.nan_to_num(1000.0 * depth_m, nan=FARTHEST_MM)
            planes.append(np.clip(far, 0, FARTHEST_MM).astype(np.int16))
        return cls(camera, np.stack(planes)[None])


@dataclass(frozen=True, eq=False)
class Pixels:
    """M pixels of the pictures of some planes."""

    picture: NDArray[np.int32]
    """(M,) index into the planes."""
    u_px: NDArray[np.float32]
    """(M,) of the canonical camera."""
    v_px: NDArray[np.float32]
    zoom_px: NDArray[np.float32]
    """(M,) pixels that an offset of one spans: the focal length by the depth in metres, or the focal length itself."""

    def __len__(self) -> int:
        return len(self.picture)

    def take(self, index: NDArray[Any] | slice) -> Pixels:
        """Some of them."""
        return Pixels(self.picture[index], self.u_px[index], self.v_px[index], self.zoom_px[index])


@dataclass(frozen=True, eq=False)
class Probes:
    """F features, each of which compares two places.

    f(p) = I(p + z(p) δ₁, c₁) − I(p + z(p) δ₂, c₂) with z the `Pixels.zoom_px` (Shotton et al. 2013, eq. 2 and 3). Their
    offsets of ±130 px m are ±0.22 m across a surface at the Kinect's 585 px; in metres they hold for any camera.
    Our reading of what they leave open: a place outside the picture reads its nearest border pixel, one without depth
    is far away, and depths that differ by more than `EDGE_MM` differ by that.
    """

    offset: NDArray[np.float16]
    """(F, 2, 2) of both places, right and down: metres across the surface, or slopes where depth plays no part."""
    plane: NDArray[np.uint8]
    """(F, 2)."""

    @classmethod
    def draw(cls, groups: Sequence[Group], count: int, reach: float, rng: np.random.Generator) -> Probes:
        """So many at random: offsets uniform within ±`reach`, both planes from one of the groups."""
        offset = rng.uniform(-reach, reach, (count, 2, 2)).astype(np.float16)
        group = rng.integers(0, len(groups), count)
        drawn = np.stack([rng.choice(planes, (count, 2)) for planes in groups])
        return cls(offset, drawn[group, np.arange(count)].astype(np.uint8))

    def take(self, index: Any) -> Probes:
        """Some of them."""
        return Probes(self.offset[index], self.plane[index])


def respond(planes: Planes, pixels: Pixels, probes: Probes) -> NDArray[np.int32]:
    """Feature values; the leading axes of the probes broadcast against the pixels.

    Probes of (F, 1) ask each of M pixels everything, (F, M); probes of (M,) ask each pixel its own question, (M,).
    """
    first, second = (_read(planes, pixels, probes.offset[..., k, :], probes.plane[..., k]) for k in (0, 1))
    values = np.subtract(first, second, dtype=np.int32)
    return np.clip(values, -planes.edge, planes.edge, out=values)  # colours never differ by so much


def _read(planes: Planes, pixels: Pixels, offset: NDArray[np.float16], plane: NDArray[np.uint8]) -> NDArray[np.int16]:
    camera, (_, channels, height, width) = planes.camera, planes.values.shape
    right, down = np.moveaxis(offset.astype(np.float32), -1, 0)
    column = _cell(pixels.u_px, pixels.zoom_px * right, width)
    row = _cell(pixels.v_px, pixels.zoom_px * np.float32(camera.fy / camera.fx) * down, height)
    picture = pixels.picture.astype(np.intp) * channels + plane
    found: NDArray[np.int16] = planes.values.reshape(-1).take((picture * height + row) * width + column)
    return found


def _cell(place_px: NDArray[np.float32], step_px: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Which row or column a place is in, the nearest one for places outside."""
    moved = place_px + step_px
    np.maximum(moved, 0, out=moved)
    np.minimum(moved, np.float32(count - 1), out=moved)
    return moved.astype(np.intp)  # cut off, which is the floor of what is not negative
