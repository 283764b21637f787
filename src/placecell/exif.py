"""What a camera writes into its pictures besides pixels: orientation, focal length, place, time, device.

Tags come from a thousand devices and editors. Each may be missing, zero, text, or nonsense; a bad one counts as absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from PIL import ExifTags, Image

from placecell.camera import Camera

_FULL_FRAME_DIAGONAL_MM = 43.267
_PRIOR_FOCAL = 1.2
"""Focal length in longer image sides of a camera that nothing is known of: 45 degrees across, as COLMAP assumes."""

_SAME_FOCAL = 0.1
"""EXIF rounds focal lengths and knows nothing of cropping; so near to the map's camera it is the map's camera."""


@dataclass(frozen=True)
class Gps:
    """Where a device says it was: WGS 84 degrees, metres above sea level where known."""

    latitude_deg: float
    longitude_deg: float
    altitude_m: float | None = None


@dataclass(frozen=True)
class Exif:
    """What a picture file says of itself, without its pixels."""

    width: int
    """Of the upright picture, as `read_image` returns it."""
    height: int
    orientation: int = 1
    focal_px: float | None = None
    """At the upright size; None where unknown or not plausible."""
    gps: Gps | None = None
    time_s: float | None = None
    """Unix time of the exposure; local time is read as UTC where the file names no time zone."""
    device: str = ""
    """Maker and model."""


def exif_from_tags(tags: Image.Exif, width: int, height: int) -> Exif:
    """The meaning of the tags of a picture stored with this size (before its orientation is applied).

    The focal length is the 35 mm equivalent f35 scaled by the image diagonal, f_px = f35 * diagonal_px / 43.267 (CIPA
    DCG-001), else the focal length in mm times the resolution of the focal plane.
    """
    if not tags:
        return Exif(width, height)
    turned = orientation(tags)
    details, gps = _subtags(tags, ExifTags.IFD.Exif), _subtags(tags, ExifTags.IFD.GPSInfo)
    focal_px = _focal_px(details, width, height)
    if turned >= 5:
        width, height = height, width
    names = (str(tags.get(tag, "")).strip("\0 ") for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
    device = " ".join(name for name in names if name)
    return Exif(width, height, turned, focal_px, _gps(gps), _time_s(details), device)


def orientation(tags: Image.Exif) -> int:
    """EXIF orientation 1 to 8; 1 where there is none or it is damaged."""
    value = tags.get(ExifTags.Base.Orientation, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def camera_guess(exif: Exif) -> tuple[Camera, bool]:
    """Intrinsics to start from, and whether the file knew the focal length or it is the guess of 1.2 longer sides."""
    known = exif.focal_px is not None
    focal_px = exif.focal_px if exif.focal_px is not None else _PRIOR_FOCAL * max(exif.width, exif.height)
    return Camera.from_focal(exif.width, exif.height, focal_px), known


def photo_camera(exif: Exif, usual: Camera, focal_px: float | None = None) -> tuple[Camera, bool]:
    """Intrinsics of a photo, and whether its focal length is known rather than guessed.

    In this order: the focal length the user gives; the map's camera where the photo has its shape at any size, or that
    shape turned, and EXIF does not contradict it; EXIF; a guess.
    """
    width, height = exif.width, exif.height
    if focal_px is not None:
        return Camera.from_focal(width, height, focal_px), True
    guess, known = camera_guess(exif)
    if _fits(usual, width, height):
        own = usual.resized(width, height)
    elif _fits(
        usual, height, width
    ):  # turned to either side: which one, and so where the principal point is, is unknown
        turned = usual.resized(height, width)
        own = Camera.from_focal(width, height, math.sqrt(turned.fx * turned.fy))
    else:
        return guess, known
    return (guess if known and abs(guess.fx / own.fx - 1) > _SAME_FOCAL else own), True


def _fits(camera: Camera, width: int, height: int) -> bool:
    """Whether a picture of this size can be one of the camera's, resized to whole pixels."""
    scale = max(width, height) / max(camera.width, camera.height)
    return max(abs(camera.width * scale - width), abs(camera.height * scale - height)) <= 1


def _subtags(tags: Image.Exif, kind: ExifTags.IFD) -> Mapping[int, Any]:
    try:
        return tags.get_ifd(kind)
    except Exception:  # damaged tags raise anything
        return {}


def _number(value: Any) -> float:
    """A tag as a number; NaN where it is none (text, zero over zero, a list)."""
    try:
        return float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return math.nan


def _focal_px(details: Mapping[int, Any], width: int, height: int) -> float | None:
    longer = max(width, height)
    f35_mm = _number(details.get(ExifTags.Base.FocalLengthIn35mmFilm))
    # The resolution counts pixels of the sensor's picture, which may have been resized or turned since.
    stored = [_number(details.get(tag)) for tag in (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)]
    shrunk = longer / max(stored) if min(stored) > 0 else 1.0
    per_unit = _number(details.get(ExifTags.Base.FocalPlaneXResolution)) * shrunk
    unit_mm = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}.get(details.get(ExifTags.Base.FocalPlaneResolutionUnit, 2), math.nan)
    guesses = (
        f35_mm * math.hypot(width, height) / _FULL_FRAME_DIAGONAL_MM,
        _number(details.get(ExifTags.Base.FocalLength)) * per_unit / unit_mm,
    )
    # Between 150 and 3 degrees across; anything else (and NaN) is a broken tag, often 0.
    return next((focal for focal in guesses if 0.13 * longer < focal < 20 * longer), None)


def _gps(tags: Mapping[int, Any]) -> Gps | None:
    def degrees(values: Any, reference: Any, negative: str) -> float:
        if not isinstance(values, tuple) or len(values) != 3:
            return math.nan
        size = sum(_number(value) / 60.0**power for power, value in enumerate(values))
        return -size if str(reference).strip("\0 ").upper() == negative else size

    latitude = degrees(tags.get(ExifTags.GPS.GPSLatitude), tags.get(ExifTags.GPS.GPSLatitudeRef), "S")
    longitude = degrees(tags.get(ExifTags.GPS.GPSLongitude), tags.get(ExifTags.GPS.GPSLongitudeRef), "W")
    # Devices without a fix write zeros.
    if not (abs(latitude) <= 90 and abs(longitude) <= 180) or (latitude == 0 and longitude == 0):
        return None
    altitude = _number(tags.get(ExifTags.GPS.GPSAltitude))
    if tags.get(ExifTags.GPS.GPSAltitudeRef) in (1, b"\x01"):  # below sea level
        altitude = -altitude
    return Gps(latitude, longitude, altitude if math.isfinite(altitude) else None)


def _time_s(details: Mapping[int, Any]) -> float | None:
    text = str(details.get(ExifTags.Base.DateTimeOriginal, "")).strip("\0 ")
    zone = str(details.get(ExifTags.Base.OffsetTimeOriginal, "")).strip("\0 ") or "+00:00"
    try:
        seconds = datetime.strptime(f"{text} {zone}", "%Y:%m:%d %H:%M:%S %z").timestamp()
    except ValueError:
        return None
    fraction = str(details.get(ExifTags.Base.SubsecTimeOriginal, "")).strip("\0 ")
    return seconds + (float(f"0.{fraction}") if fraction.isascii() and fraction.isdecimal() else 0.0)
