"""A small rendered place with exact poses, depth and points: for tests, the demo and the documentation.

The world is in metres with z up; the room spans 0 to 6, 0 to 5 and 0 to 3. Its surfaces are flat rectangles, so every
pixel's surface point, and with it depth, is exact: no mesh, no rasteriser, NumPy and OpenCV alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from placecell import textures
from placecell.camera import Camera
from placecell.images import write_depth, write_jpeg
from placecell.points import PointCloud
from placecell.pose import Array, Pose
from placecell.rendering import Quad as Quad
from placecell.rendering import Rendered as Rendered
from placecell.rendering import Room as Room
from placecell.rendering import render as render
from placecell.rendering import visible as visible
from placecell.scene import DepthSensor, Frame, Scene, Split
from placecell.textures import Paint, Texture
from placecell.video import write_video

SIZE_M = (6.0, 5.0, 3.0)
_PX_PER_M = 350.0
_LAMPS_WORLD = ((1.9, 2.5, 2.7), (4.3, 2.5, 2.7))

Walk = Literal["walk", "visit", "rotation", "still", "across"]
SceneKind = Literal["room", "rotation", "black", "single"]


@lru_cache(maxsize=2)
def room(seed: int = 0) -> Room:
    """The room: one layout, its textures drawn from `seed`."""
    rng = np.random.default_rng(seed)
    return Room(tuple(_shell(rng)) + tuple(quad for box in _FURNITURE for quad in _box_quads(rng, *box)))


# centre x, y, floor height; size x, y, z; turn about z in degrees; front (towards -y before turning), sides, top
_WHITE, _OAK, _DARK = textures.plain((205, 203, 196), 0.02), textures.wood((170, 125, 80)), textures.wood((92, 66, 50))
_FURNITURE: tuple[tuple[tuple[float, ...], tuple[float, ...], float, Paint, Paint, Paint], ...] = (
    ((1.1, 4.78, 0.0), (1.3, 0.36, 1.9), 0, textures.books, _DARK, _DARK),
    ((5.78, 1.3, 0.0), (1.5, 0.38, 1.5), -90, textures.books, _DARK, _OAK),
    ((4.6, 4.45, 0.68), (1.7, 0.8, 0.07), 4, _OAK, _OAK, _OAK),
    ((3.9, 4.3, 0.0), (0.09, 0.6, 0.68), 4, _DARK, _DARK, _DARK),
    ((5.3, 4.45, 0.0), (0.09, 0.6, 0.68), 4, _DARK, _DARK, _DARK),
    ((4.3, 4.5, 0.75), (0.42, 0.3, 0.3), 20, textures.cardboard, textures.cardboard, textures.cardboard),
    ((5.0, 4.5, 0.75), (0.5, 0.14, 0.36), -8, textures.painting, _DARK, _DARK),
    ((0.62, 0.75, 0.0), (0.7, 0.6, 0.55), 25, textures.cardboard, textures.cardboard, textures.cardboard),
    ((0.6, 0.72, 0.55), (0.45, 0.4, 0.35), 50, textures.cardboard, textures.cardboard, textures.cardboard),
    ((0.5, 2.9, 0.0), (1.9, 0.8, 0.42), 90, textures.wallpaper, textures.wallpaper, textures.wallpaper),
    ((0.2, 2.9, 0.42), (1.9, 0.2, 0.4), 90, textures.wallpaper, textures.wallpaper, textures.wallpaper),
    ((3.2, 0.4, 0.0), (1.0, 0.5, 0.8), 180, textures.wood((190, 180, 160)), _WHITE, _OAK),
    ((3.0, 0.4, 0.8), (0.3, 0.22, 0.28), 205, textures.poster, textures.cardboard, textures.cardboard),
)


def _shell(rng: np.random.Generator) -> Iterator[Quad]:
    """Four walls, floor and ceiling, with what hangs on them: (paint, left, top, width, height) in metres."""
    wide, deep, high = SIZE_M
    art, sheet = textures.painting, textures.poster
    brick = ((sheet, 0.5, 0.7, 0.7, 1.0), (art, 1.9, 0.5, 1.3, 0.9), (sheet, 3.8, 0.8, 0.6, 0.85))
    gallery = (
        (art, 0.3, 0.35, 1.4, 0.55),
        (sheet, 2.1, 0.6, 0.6, 0.85),
        (art, 2.9, 0.4, 0.9, 0.7),
        (art, 2.95, 1.25, 0.5, 0.5),
        (sheet, 4.0, 0.5, 0.8, 1.1),
        (art, 5.0, 0.6, 0.8, 1.0),
    )
    papered = ((art, 0.5, 0.7, 0.9, 1.1), (sheet, 1.7, 0.8, 0.6, 0.85), (art, 3.2, 0.35, 1.2, 0.9))
    bland = ((_DARK, 0.9, 0.9, 0.95, 2.1), (sheet, 2.5, 0.9, 0.5, 0.7), (art, 4.5, 1.0, 0.5, 0.4))
    rug = ((textures.wallpaper, 1.6, 1.5, 2.8, 1.9),)
    glow = textures.plain((255, 250, 235), 0.0)
    lamps = ((glow, 1.6, 2.3, 0.6, 0.4), (glow, 4.0, 2.3, 0.6, 0.4))

    def wall(paint: Paint, things: tuple[tuple[Paint, float, float, float, float], ...]) -> Paint:
        return textures.pasted(paint, things, _PX_PER_M)

    plaster = textures.plain((216, 212, 200), 0.025)
    yield _quad(rng, (0, 0, high), (0, deep, 0), (0, 0, -high), wall(textures.bricks, brick))
    yield _quad(rng, (0, deep, high), (wide, 0, 0), (0, 0, -high), wall(textures.plain((178, 196, 190), 0.04), gallery))
    yield _quad(rng, (wide, deep, high), (0, -deep, 0), (0, 0, -high), wall(textures.wallpaper, papered))
    yield _quad(rng, (wide, 0, high), (-wide, 0, 0), (0, 0, -high), wall(plaster, bland))
    yield _quad(rng, (0, deep, 0), (wide, 0, 0), (0, -deep, 0), wall(textures.wood((150, 112, 76)), rug), floor=True)
    yield _quad(rng, (0, 0, high), (wide, 0, 0), (0, deep, 0), wall(textures.plain((225, 224, 220), 0.012), lamps))


def _box_quads(
    rng: np.random.Generator,
    floor_centre: tuple[float, ...],
    size: tuple[float, ...],
    turn_deg: float,
    front: Paint,
    sides: Paint,
    top: Paint,
) -> Iterator[Quad]:
    """Five faces of a box standing on `floor_centre`; nobody sees it from below."""
    turn = np.radians(turn_deg)
    axes = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1.0]])
    x, y, z = axes * np.array(size)[:, None]
    middle = np.array(floor_centre) + z
    for right, inward, paint in ((x, y, front), (y, -x, sides), (-x, -y, sides), (-y, x, sides)):
        yield _quad(rng, middle - right / 2 - inward / 2, right, -z, paint)
    yield _quad(rng, middle - x / 2 + y / 2, x, -y, top)


def _quad(
    rng: np.random.Generator,
    corner: ArrayLike,
    edge_u: ArrayLike,
    edge_v: ArrayLike,
    paint: Paint,
    *,
    floor: bool = False,
) -> Quad:
    corner, u, v = (np.asarray(value, np.float64) for value in (corner, edge_u, edge_v))
    width, height = (max(8, round(float(np.linalg.norm(edge)) * _PX_PER_M)) for edge in (u, v))
    texture = paint(rng, width, height)
    if floor:
        _shadow_furniture(texture)
    lit = np.clip(texture * cv2.resize(_light(corner, u, v), (width, height))[..., None], 0, 255).astype(np.uint8)
    levels = [lit]
    while min(levels[-1].shape[:2]) >= 8:
        size = (levels[-1].shape[1] // 2, levels[-1].shape[0] // 2)
        levels.append(cv2.resize(levels[-1], size, interpolation=cv2.INTER_AREA))
    for array in (corner, u, v, *levels):
        array.setflags(write=False)
    return Quad(corner, u, v, tuple(levels))


def _light(corner: Array, edge_u: Array, edge_v: Array) -> NDArray[np.float32]:
    """(24, 24) brightness of a surface under the two lamps, by Lambert's cosine over an ambient floor."""
    along = (np.arange(24) + 0.5) / 24
    points = corner + along[None, :, None] * edge_u + along[:, None, None] * edge_v
    normal = -np.cross(edge_u, edge_v)
    normal /= np.linalg.norm(normal)
    shade = np.full((24, 24), 0.5)
    for lamp in _LAMPS_WORLD:
        towards = np.array(lamp) - points
        distance = np.linalg.norm(towards, axis=-1)
        shade += 0.55 * np.maximum(towards @ normal / distance, 0) / (0.6 + 0.12 * distance**2)
    light: NDArray[np.float32] = np.clip(shade, 0.4, 1.1).astype(np.float32)
    return light


def _shadow_furniture(texture: Texture) -> None:
    for (x, y, z), (wide, deep, _), turn_deg, *_ in _FURNITURE:
        if z > 0:
            continue
        if turn_deg % 180 > 60:
            wide, deep = deep, wide
        left, right = (round((x + side * wide / 2) * _PX_PER_M) for side in (-1, 1))
        top, bottom = (round((SIZE_M[1] - y + side * deep / 2) * _PX_PER_M) for side in (-1, 1))
        textures.darken(texture, left, top, right, bottom, 0.5, 22)


def trajectory(kind: Walk, count: int, seed: int = 0) -> list[Pose]:
    """Poses `world_from_cam` of a smooth round through the room, z of the world up, the pictures upright.

    `walk` goes round the middle once and looks outwards at everything; `visit` goes the other way round, nearer to the
    walls and at other heights; `across` goes round along the walls and looks across the middle at what is opposite, as
    structure from motion likes it best; `rotation` turns on the spot, without any parallax; `still` does not move.
    """
    if kind not in get_args(Walk):
        raise ValueError(f"unknown trajectory {kind!r}; known: {', '.join(get_args(Walk))}")
    rng = np.random.default_rng([seed, get_args(Walk).index(kind)])
    wobble = [_smooth(rng) for _ in range(6)]
    return [_pose_on(kind, 2 * np.pi * index / max(count, 1), wobble) for index in range(count)]


def _smooth(rng: np.random.Generator) -> Callable[[float], float]:
    """A periodic function of an angle, between -1 and 1."""
    weights, phases = rng.dirichlet(np.ones(3)), rng.uniform(0, 2 * np.pi, 3)
    return lambda angle: float(weights @ np.sin(np.arange(1, 4) * angle + phases))


def _pose_on(kind: Walk, angle: float, wobble: list[Callable[[float], float]]) -> Pose:
    a, b, c, d, e, f = (wave(angle) for wave in wobble)
    middle = np.array([3.0, 2.5, 1.5])
    if kind == "still":
        return _facing(middle, 0.7, -0.1, 0.0)
    if kind == "rotation":
        return _facing(middle, angle, -0.1 + 0.05 * d, 0.0)
    if kind == "walk":
        round_m = np.array([0.9 * np.cos(angle), 0.7 * np.sin(angle), 0.0])
        offset = np.array([0.15 * a, 0.15 * b, 0.12 * c])
        return _facing(middle + round_m + offset, angle + 0.35 * d, -0.12 + 0.1 * e, 0.03 * f)
    if kind == "across":
        round_m = np.array([2.2 * np.cos(angle), 1.7 * np.sin(angle), 0.2])
        offset = np.array([0.12 * a, 0.12 * b, 0.2 * c])
        return _facing(middle + round_m + offset, angle + np.pi + 0.2 * d, -0.15 + 0.08 * e, 0.03 * f)
    round_m = np.array([1.25 * np.cos(-angle), 0.85 * np.sin(-angle), -0.1])
    offset = np.array([0.2 * a, 0.15 * b, 0.25 * c])
    return _facing(middle + round_m + offset, -angle + 0.6 + 0.5 * d, -0.08 + 0.15 * e, 0.06 * f)


def _facing(centre_world: Array, yaw_rad: float, pitch_rad: float, roll_rad: float) -> Pose:
    """A camera looking along yaw (about z, 0 along x) and pitch (upwards), then rolled clockwise about its view."""
    forward = np.array([np.cos(yaw_rad) * np.cos(pitch_rad), np.sin(yaw_rad) * np.cos(pitch_rad), np.sin(pitch_rad)])
    right = np.array([np.sin(yaw_rad), -np.cos(yaw_rad), 0.0])
    level = Pose(np.column_stack([right, np.cross(forward, right), forward]), centre_world)
    return level @ Pose.exp([0.0, 0.0, roll_rad, 0.0, 0.0, 0.0])


def make_scene(
    folder: Path,
    *,
    train: int = 40,
    test: int = 15,
    size: tuple[int, int] = (640, 480),
    seed: int = 0,
    kind: SceneKind = "room",
) -> Scene:
    """Render a scene folder: pictures, 16-bit depth, exact poses and points, splits `train` (walk) and `test` (visit).

    The depth sensor is the colour camera. Points are samples of the surfaces, each with the exact pixels of all frames
    that see it. Kinds to fail on: `rotation` (no parallax), `black` (lens cap on), `single` (one training frame).

    Raises:
        PlacecellError: the folder exists, or cannot be written.
    """
    place, camera = room(seed), _camera(size)
    walks: dict[Split, list[Pose]] = {
        "train": trajectory("rotation" if kind == "rotation" else "walk", 1 if kind == "single" else train, seed),
        "test": trajectory("rotation" if kind == "rotation" else "visit", test, seed + 1),
    }
    with TemporaryDirectory() as aside:
        root = Path(aside)
        frames = tuple(
            _shoot(root, place, camera, pose, split, index, seed, black=kind == "black")
            for split, poses in walks.items()
            for index, pose in enumerate(poses)
        )
        poses = [pose for walk in walks.values() for pose in walk]
        scene = Scene(
            name=kind,
            labels="synthetic",
            metric=True,
            frames=frames,
            cameras={"camera": camera},
            root=root,
            depth_sensor=DepthSensor(camera, Pose.identity()),
            points=sample_points(place, camera, poses, seed=seed),
            notes=("rendered; poses, depth and points are exact",),
        )
        return scene.save(folder, images="copy")


def _camera(size: tuple[int, int]) -> Camera:
    """63 degrees across, as the sensor of the 7-Scenes."""
    return Camera.from_focal(size[0], size[1], 0.82 * size[0])


def _shoot(
    root: Path, place: Room, camera: Camera, pose: Pose, split: Split, index: int, seed: int, *, black: bool
) -> Frame:
    noise_seed = 100_003 * seed + 2 * index + (split == "test")
    exposure = 0.0 if black else 1.0 + 0.15 * np.sin(0.7 * index + (2.0 if split == "test" else 0.0))
    rendered = render(place, camera, pose, exposure=exposure, noise_seed=None if black else noise_seed)
    stem = f"{split}/{index:06d}"
    write_jpeg(root / f"{stem}.jpg", rendered.image)
    write_depth(root / f"depth/{stem}.png", rendered.depth_m)
    return Frame(
        name=f"{stem}.jpg",
        image=f"{stem}.jpg",
        camera="camera",
        world_from_cam=pose,
        sequence=split,
        split=split,
        depth=f"depth/{stem}.png",
        time_s=0.2 * index,
    )


def sample_points(place: Room, camera: Camera, poses: list[Pose], *, count: int = 12_000, seed: int = 0) -> PointCloud:
    """Of `count` random points of the surfaces those that any pose sees, with the exact pixels where they do.

    `seen_frame` counts the poses. Positions are rounded to float32, as a scene folder keeps them, before they are
    projected.
    """
    rng = np.random.default_rng([seed, 7])
    areas = np.array([np.linalg.norm(np.cross(quad.edge_u, quad.edge_v)) for quad in place.quads])
    owners = rng.choice(len(areas), count, p=areas / areas.sum())
    st = rng.uniform(size=(count, 2))
    corners, us, vs = (
        np.array([getattr(quad, name) for quad in place.quads])[owners] for name in ("corner_world", "edge_u", "edge_v")
    )
    points = (corners + st[:, :1] * us + st[:, 1:] * vs).astype(np.float32).astype(np.float64)
    texels = [_texel(place.quads[owner], s, t) for owner, (s, t) in zip(owners, st, strict=True)]
    rgb = np.array(texels, np.uint8).reshape(-1, 3)
    sights = np.zeros((len(poses), count), bool)
    pixels = np.zeros((len(poses), count, 2), np.float32)
    for index, pose in enumerate(poses):
        projected = camera.project(pose.inv.apply(points))
        sights[index] = camera.contains(projected)
        sights[index, sights[index]] = visible(place, pose, points[sights[index]])
        pixels[index] = np.nan_to_num(projected)
    kept = sights.any(axis=0)
    point, frame = np.nonzero(sights[:, kept].T)
    seen_px = pixels[:, kept][frame, point]
    return PointCloud(points[kept], rgb[kept], point.astype(np.int32), frame.astype(np.int32), seen_px)


def _texel(quad: Quad, s: float, t: float) -> NDArray[np.uint8]:
    height, width = quad.levels[0].shape[:2]
    texel: NDArray[np.uint8] = quad.levels[0][int(t * height), int(s * width)]
    return texel


def make_video(
    path: Path,
    *,
    count: int = 150,
    size: tuple[int, int] = (640, 480),
    fps: float = 15.0,
    seed: int = 0,
    kind: Walk = "walk",
) -> list[Pose]:
    """Render a walk as a video and return the exact pose of each of its frames.

    Raises:
        PlacecellError: the folder cannot be written or the disk is full.
    """
    place, camera = room(seed), _camera(size)
    poses = trajectory(kind, count, seed)
    write_video(path, (render(place, camera, pose).image for pose in poses), fps)
    return poses
