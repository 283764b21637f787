"""From the bytes that a client sent to a query: limits, header, intrinsics, pixels, in this order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from placecell.camera import Camera
from placecell.errors import ImageError
from placecell.estimate import Query
from placecell.exif import Exif, photo_camera
from placecell.images import decode_image, exif_of
from placecell.localizer import Coarse, Localizer
from placecell.serve.limits import Limits, Problem

Lens = Literal["request", "map or EXIF", "guess"]
_ENOUGH = 0.9
"""A picture is decoded at a part of its size where that leaves so much of the resolution a map looks with: networks
answer as well when a tenth is missing."""


@dataclass(frozen=True)
class Sent:
    """A picture as it came in."""

    name: str
    content: bytes
    intrinsics: Mapping[str, float]
    """`focal_px`, or `fx`, `fy`, `cx`, `cy`, in pixels of the upright picture; empty where the client knows none."""


def query_of(sent: Sent, usual: Camera, localizer: Localizer, limits: Limits) -> tuple[Query, Lens]:
    """The picture with its camera, and where that is from.

    Args:
        usual: the camera of the map.

    Raises:
        Problem: not a picture, damaged, too large, or with intrinsics that cannot be.
    """
    try:
        exif = exif_of(sent.content, sent.name)
        if exif.width * exif.height > limits.pixels:
            most = f"{limits.pixels / 1e6:g} megapixels are taken"
            raise Problem(413, "too-many-pixels", f"{sent.name}: {exif.width}x{exif.height} px; {most}, shrink it")
        camera, lens = _camera(exif, sent.intrinsics, usual)
        image = decode_image(sent.content, sent.name, shrink=shrink_for(camera, localizer))
    except ImageError as error:
        raise Problem(422, "bad-picture", str(error)) from error
    height, width = image.shape[:2]
    return Query(sent.name, image, camera.resized(width, height)), lens


def shrink_for(camera: Camera, localizer: Localizer) -> int:
    """The part of a picture's size that a map can see anything of: 1, or a half, a quarter, an eighth as 2, 4, 8."""
    if not isinstance(localizer, Coarse):
        return 1
    finer = camera.fx / (_ENOUGH * localizer.sight.fx)
    return next((part for part in (8, 4, 2) if finer >= part), 1)


def _camera(exif: Exif, given: Mapping[str, float], usual: Camera) -> tuple[Camera, Lens]:
    if not given:
        camera, known = photo_camera(exif, usual)
        return camera, "map or EXIF" if known else "guess"
    width, height = exif.width, exif.height
    focal = given.get("focal_px", given.get("fx"))
    if focal is None or ("focal_px" in given) == ("fx" in given):
        raise Problem(422, "bad-intrinsics", "give focal_px alone, or fx with any of fy, cx, cy; in pixels")
    fx, fy = focal, given.get("fy", focal)
    cx, cy = given.get("cx", width / 2), given.get("cy", height / 2)
    longer = max(width, height)
    if not all(math.isfinite(value) and 0.05 * longer < value < 50 * longer for value in (fx, fy)):
        raise Problem(422, "bad-intrinsics", f"focal lengths {fx:g} {fy:g} px do not go with {width}x{height} px")
    if not (0 <= cx <= width and 0 <= cy <= height):
        raise Problem(422, "bad-intrinsics", f"principal point {cx:g} {cy:g} px is not in {width}x{height} px")
    return replace(Camera.from_focal(width, height, fx), fy=fy, cx=cx, cy=cy), "request"
