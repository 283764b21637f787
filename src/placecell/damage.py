"""Queries made harder in ways that have a size: less light, blur, noise, something in front, another lens.

What a camera does to light is done to light: pictures are decoded from sRGB (IEC 61966-2-1), changed as amounts of
light, and encoded to eight bits again. What turns or zooms is the exact resampling of the rays, without parallax.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil, cos, pi, sin, sqrt
from typing import Literal, NamedTuple, get_args
from zlib import crc32

import cv2
import numpy as np
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.estimate import Query
from placecell.pose import Array, Pose
from placecell.resample import resample

Kind = Literal["dusk", "night", "noise", "blur", "motion-blur", "jpeg", "occluded", "rotated", "zoomed", "wrong-focal"]
Image = NDArray[np.uint8]
Light = NDArray[np.float32]

LEVELS: dict[Kind, tuple[float, ...]] = {
    "dusk": (4.0, 6.0, 7.0, 8.0),
    "night": (6.0, 8.0, 10.0, 12.0),
    "noise": (4.0, 8.0, 10.0, 12.0),
    "blur": (2.0, 4.0, 6.0, 8.0),
    "motion-blur": (10.0, 20.0, 30.0, 40.0),
    "jpeg": (70.0, 85.0, 95.0, 98.0),
    "occluded": (0.25, 0.5, 0.75, 0.9),
    "rotated": (15.0, 45.0, 90.0, 180.0),
    "zoomed": (-0.75, -0.5, 0.5, 1.0),
    "wrong-focal": (0.02, 0.05, 0.1, 0.25),
}
"""Levels worth asking, from the mildest to the hardest; 0 is always the picture as it was taken."""

_FULL_WELL = 6000
"""Electrons that a white pixel holds, and what reading it adds (deviation): a small sensor, a phone's."""
_READ_NOISE = 2.5
_DUSK = np.array([1.1, 1.0, 0.9])
"""Stops that red, green and blue lose for each stop of light, as the light of the sky alone is bluer."""


def damaged(query: Query, kind: Kind, level: float, *, seed: int) -> Query:
    """The query as it would be under harder conditions: same name, same size.

    What a level means; 0 is no damage, and returns the query itself:
        dusk: stops (halvings) of light lost in green; red loses a tenth more and blue a tenth less. No noise, no gain.
        night: stops lost, half of them taken back by gain; shot and read noise of a small sensor.
        noise: stops lost and all taken back by gain, a high ISO: as bright, with that noise.
        blur: deviation of a Gaussian, px of the picture, in light.
        motion-blur: length of a straight path in a random direction, px; the pose is that of mid-exposure.
        jpeg: 100 less the quality.
        occluded: share of the picture behind a textured rectangle at a random place, nearer than depth cameras see.
        rotated: degrees that the camera turns about its optical axis, x towards y: what it sees turns the other way.
        zoomed: what is added to the focal length, as a share of it; the query's camera tells.
        wrong-focal: the same share added to what the camera tells, while the picture stays.

    Beyond the picture a turned or wider camera sees black. Depth goes with what is seen: moved with the pixels of
    `rotated` and `zoomed`, NaN behind an occluder and beyond the picture, else as it was, as depth cameras bring their
    own light. `truth` is the pose of the new query.

    Args:
        seed: together with the name of the query, decides noise, direction and place, alike for every level; from 0.

    Raises:
        ValueError: an unknown kind, or a level outside its range.
    """
    model = _model(kind, level)
    if level == 0:
        return query
    name = query.name.encode("utf-8", "backslashreplace")
    return model.apply(query, level, np.random.default_rng([seed, crc32(name)]))


def truth(world_from_cam: Pose, kind: Kind, level: float) -> Pose:
    """Where the camera of the damaged query is: turned about its optical axis if `rotated`, else where it was.

    Raises:
        ValueError: as `damaged`.
    """
    _model(kind, level)
    return world_from_cam @ _cam_from_turned(level) if kind == "rotated" else world_from_cam


def told(kind: Kind, level: float) -> str:
    """The level with its unit, for tables: `6 stops`, `4 px`, `50 %`, `quality 30`.

    Raises:
        ValueError: as `damaged`.
    """
    return _model(kind, level).told(level)


def _model(kind: Kind, level: float) -> _Model:
    if kind not in _MODELS:
        raise ValueError(f"unknown damage {kind!r}; known are {', '.join(get_args(Kind))}")
    model = _MODELS[kind]
    if not model.least <= level <= model.most:  # False for NaN
        raise ValueError(f"{kind} goes from {model.least:g} to {model.most:g}, not {level:g}")
    return model


# Light


def _light(image: Image) -> Light:
    """(H, W, 3) amounts of light, white is 1, of an sRGB picture."""
    return _DECODED[image]


def _picture(light: NDArray[np.floating]) -> Image:
    """The sRGB picture of amounts of light; what is brighter than white is white."""
    bounded = np.clip(light, 0.0, 1.0).astype(np.float32)
    encoded = np.where(bounded <= 0.0031308, bounded * 12.92, 1.055 * bounded ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(encoded * 255), dtype=np.uint8)


def _decoded() -> Light:
    """(256,) the light of each value."""
    value = np.arange(256) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


_DECODED = _decoded()


def _dusk(image: Image, stops: float, rng: np.random.Generator) -> Image:
    return _picture(_light(image) * 0.5 ** (stops * _DUSK))


def _night(image: Image, stops: float, rng: np.random.Generator) -> Image:
    return _picture(_caught(image, stops, rng) * 2 ** (stops / 2))


def _noise(image: Image, stops: float, rng: np.random.Generator) -> Image:
    return _picture(_caught(image, stops, rng) * 2**stops)


def _caught(image: Image, stops: float, rng: np.random.Generator) -> Array:
    """The light a sensor tells of a scene that is darker by some stops; its noise may be below 0.

    The electrons of the picture are thinned: each is kept with the probability that its photon is there. Poisson noise
    thinned is that of the darker scene, whose part in the picture already is not added twice; and 0 stops add nothing.
    """
    kept = 0.5**stops
    electrons = np.rint(_light(image) * _FULL_WELL).astype(np.int64)
    read = _READ_NOISE * sqrt(1 - kept**2) * rng.standard_normal(image.shape, dtype=np.float32)
    caught: Array = (rng.binomial(electrons, kept) + read) / _FULL_WELL
    return caught


def _blur(image: Image, deviation_px: float, rng: np.random.Generator) -> Image:
    return _picture(np.asarray(cv2.GaussianBlur(_light(image), (0, 0), deviation_px)))


def _motion_blur(image: Image, length_px: float, rng: np.random.Generator) -> Image:
    return _picture(np.asarray(cv2.filter2D(_light(image), -1, _path(length_px, rng.uniform(0, pi)))))


def _path(length_px: float, direction_rad: float) -> Light:
    """How long a point stays on each pixel while it moves straight and evenly through the middle one; sums to 1."""
    radius = ceil(length_px / 2) + 1
    along = (np.arange(16 * radius) + 0.5) / (16 * radius) - 0.5
    u, v = (radius + length_px * along * part for part in (cos(direction_rad), sin(direction_rad)))
    weights = np.zeros((2 * radius + 1, 2 * radius + 1))
    column, row = np.floor(u).astype(np.intp), np.floor(v).astype(np.intp)
    for right, below in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = np.abs(1 - right - (u - column)) * np.abs(1 - below - (v - row))
        np.add.at(weights, (row + below, column + right), share)
    return np.asarray(weights / weights.sum(), dtype=np.float32)


def _jpeg(image: Image, lost: float, rng: np.random.Generator) -> Image:
    options = [cv2.IMWRITE_JPEG_QUALITY, round(100 - lost)]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return np.asarray(cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), dtype=np.uint8)


# Views


def _occluded(query: Query, share: float, rng: np.random.Generator) -> Query:
    camera = query.camera
    width, height = (round(side * sqrt(share)) for side in (camera.width, camera.height))
    left, top = (round(rng.random() * room) for room in (camera.width - width, camera.height - height))
    behind = np.zeros((camera.height, camera.width), bool)
    behind[top : top + height, left : left + width] = True
    image = np.where(behind[..., None], _texture(camera, rng), query.image)
    depth_m = None if query.depth_m is None else np.where(behind, np.float32(np.nan), query.depth_m)
    return replace(query, image=image, depth_m=depth_m)


def _texture(camera: Camera, rng: np.random.Generator) -> Image:
    """Random colours at four scales, with plenty to find that matches nothing."""
    size, total = (camera.width, camera.height), np.zeros((camera.height, camera.width, 3), np.float32)
    for cells in (4, 16, 64, 256):
        total += cv2.resize(rng.random((cells, cells, 3), dtype=np.float32), size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.normalize(total, None, 0, 255, cv2.NORM_MINMAX), dtype=np.uint8)


def _rotated(query: Query, angle_deg: float, rng: np.random.Generator) -> Query:
    return _seen_by(query, query.camera, _cam_from_turned(angle_deg).rotation)


def _cam_from_turned(angle_deg: float) -> Pose:
    return Pose.exp([0.0, 0.0, np.deg2rad(angle_deg), 0.0, 0.0, 0.0])


def _zoomed(query: Query, added: float, rng: np.random.Generator) -> Query:
    return _seen_by(query, _longer(query.camera, added), np.eye(3))


def _wrong_focal(query: Query, added: float, rng: np.random.Generator) -> Query:
    return replace(query, camera=_longer(query.camera, added))


def _longer(camera: Camera, added: float) -> Camera:
    return replace(camera, fx=camera.fx * (1 + added), fy=camera.fy * (1 + added))


def _seen_by(query: Query, target: Camera, cam_from_target: Array) -> Query:
    """What another camera at the same place sees, turned about the same optical axis, so that depth z stays."""
    camera, depth_m = query.camera, query.depth_m
    image = resample(query.image, camera, target, target_from_cam=cam_from_target.T, fill=(0, 0, 0))
    if depth_m is not None:
        pixels = camera.project(target.rays(target.pixel_centres) @ cam_from_target.T)
        inside = camera.contains(pixels)
        column, row = np.where(inside[..., None], pixels, 0).astype(np.intp).transpose(2, 0, 1)
        # The nearest pixel's: between a near and a far surface there is none.
        depth_m = np.where(inside, depth_m[row, column], np.float32(np.nan))
    return replace(query, image=image, camera=target, depth_m=depth_m)


Apply = Callable[[Query, float, np.random.Generator], Query]


class _Model(NamedTuple):
    """How a kind of damage is done, how far its levels go, and how they are written."""

    apply: Apply
    least: float
    most: float
    told: Callable[[float], str]


def _to_image(change: Callable[[Image, float, np.random.Generator], Image]) -> Apply:
    return lambda query, level, rng: replace(query, image=change(query.image, level, rng))


def _stops(level: float) -> str:
    return f"{level:g} stops"


def _pixels(level: float) -> str:
    return f"{level:g} px"


def _percent(level: float) -> str:
    return f"{100 * level:g} %"


def _added(level: float) -> str:
    return f"{100 * level:+g} %"


_MODELS: dict[Kind, _Model] = {
    "dusk": _Model(_to_image(_dusk), 0, 16, _stops),
    "night": _Model(_to_image(_night), 0, 16, _stops),
    "noise": _Model(_to_image(_noise), 0, 16, _stops),
    "blur": _Model(_to_image(_blur), 0, 100, _pixels),
    "motion-blur": _Model(_to_image(_motion_blur), 0, 200, _pixels),
    "jpeg": _Model(_to_image(_jpeg), 0, 99, lambda level: f"quality {100 - level:g}"),
    "occluded": _Model(_occluded, 0, 1, _percent),
    "rotated": _Model(_rotated, -180, 180, lambda level: f"{level:g} deg"),
    "zoomed": _Model(_zoomed, -0.9, 9, _added),
    "wrong-focal": _Model(_wrong_focal, -0.9, 9, _added),
}
