"""Bundler's `bundle.out` with its list of pictures (Snavely et al. 2006; Dubrovnik6K and Rome16K use it)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from placecell.camera import Camera
from placecell.datasets.pictures import clean_name, keyed, located, size_px
from placecell.datasets.rows import Row, rigid, rows
from placecell.errors import FormatError
from placecell.points import PointCloud
from placecell.pose import Array, Pose
from placecell.scene import Frame, Scene

BUNDLES = ("bundle.out", "bundle/bundle.out", "bundle.db.out", "bundle.orig.out")
LISTS = ("list.txt", "list.orig.txt", "list.db.txt", "list.db")
QUERIES = ("list.query.txt", "list.query")

_CV_FROM_GL = Pose(np.diag([1.0, -1.0, -1.0]), np.zeros(3))


def read(root: Path, *, images: Path | None = None, metric: bool = False) -> Scene:
    """A Bundler model: `bundle.out` and `list.txt`; pictures of a `list.query.txt` are the test split.

    The file has cam_from_world for a camera that looks down *-z* with y up, and pixels from the middle with y up;
    both are turned here. Pictures that Bundler did not register (focal length 0) are left out and counted.

    Args:
        images: the folder that picture names are relative to; `root` by default.
        metric: whether the model is known to be in metres.
    Raises:
        FormatError: a file is damaged or missing, or pictures are missing.
    """
    bundle, listing = _first(root, BUNDLES), _first(root, LISTS)
    names = [row.fields[0] for row in rows(listing)]
    queries = {row.fields[0] for name in QUERIES if (root / name).is_file() for row in rows(root / name)}
    table = rows(bundle)
    if not table or len(table[0].fields) < 2:
        raise FormatError(f"{bundle}: no line with the numbers of cameras and points; the file is cut off")
    camera_count, point_count = (table[0].integer(index, "a count") for index in (0, 1))
    needed = 1 + 5 * camera_count + 3 * point_count
    if len(table) < needed:
        raise table[0].error(f"{camera_count} cameras and {point_count} points need {needed} lines, not {len(table)}")
    if len(names) != camera_count:
        raise FormatError(f"{listing}: {len(names)} pictures, but {bundle.name} has {camera_count} cameras")
    blocks = [table[1 + 5 * index : 6 + 5 * index] for index in range(camera_count)]
    kept = [index for index, block in enumerate(blocks) if block[0].number_at(0, "the focal length") > 0]
    folder = images or root
    paths = located(folder, [names[index] for index in kept], listing)
    found = [_camera(blocks[index][0], *size_px(folder / path)) for index, path in zip(kept, paths, strict=True)]
    cameras, keys = keyed(found)
    frames = tuple(
        Frame(
            clean_name(names[index]),
            path,
            key,
            _pose(blocks[index]),
            "",
            "test" if names[index] in queries else "train",
        )
        for index, path, key in zip(kept, paths, keys, strict=True)
    )
    points = _points(table[1 + 5 * camera_count : needed], kept, found)
    left_out = camera_count - len(kept)
    notes = (f"{left_out} of {camera_count} pictures were not registered and are left out",) if left_out else ()
    return Scene(root.name, "sfm", metric, frames, cameras, folder, points=points, notes=notes)


def _first(root: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (root / name).is_file():
            return root / name
    raise FormatError(f"{root}: none of {', '.join(names)}; Bundler's model and list of pictures belong there")


def _camera(row: Row, width: int, height: int) -> Camera:
    """`f k1 k2`: Bundler's radial distortion is ours, since r² does not see the flipped axes."""
    focal, k1, k2 = row.numbers(0, 3, "f k1 k2")
    if k1 == 0 and k2 == 0:
        return Camera.from_focal(width, height, focal)
    return Camera(width, height, focal, focal, width / 2, height / 2, "opencv", (k1, k2, 0.0, 0.0))


def _pose(block: list[Row]) -> Pose:
    rotation = np.array([row.numbers(0, 3, "a row of the rotation") for row in block[1:4]])
    translation = block[4].numbers(0, 3, "the translation")
    gl_from_world = rigid(np.column_stack([rotation, translation]), f"{block[1].path}:{block[1].number}")
    return (_CV_FROM_GL @ gl_from_world).inv


def _points(table: list[Row], kept: list[int], cameras: list[Camera]) -> PointCloud:
    """Points of three lines each: position, colour, and `n <camera key x y>*` with x right, y up from the middle."""
    frame_of = {camera: frame for frame, camera in enumerate(kept)}
    seen: list[tuple[int, int, float, float]] = []
    for point, row in enumerate(table[2::3]):
        count = row.integer(0, "the number of views")
        for camera, _, x, y in row.numbers(1, 4 * count, f"{count} views").reshape(-1, 4):
            frame = frame_of.get(int(camera))
            if frame is not None:
                seen.append((point, frame, cameras[frame].width / 2 + x, cameras[frame].height / 2 - y))
    flat: Array = np.array(seen, dtype=np.float64).reshape(-1, 4)
    return PointCloud(
        np.array([row.numbers(0, 3, "a point") for row in table[0::3]]).reshape(-1, 3),
        np.array([row.numbers(0, 3, "a colour") for row in table[1::3]]).reshape(-1, 3).clip(0, 255).astype(np.uint8),
        flat[:, 0].astype(np.int32),
        flat[:, 1].astype(np.int32),
        flat[:, 2:].astype(np.float32),
    )
