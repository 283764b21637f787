"""VisualSFM's N-View Match files (NVM_V3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.datasets.pictures import clean_name, keyed, located, size_px
from placecell.datasets.rows import Quaternions, Row, rows
from placecell.errors import FormatError, SceneError
from placecell.points import PointCloud
from placecell.pose import Array, Pose
from placecell.scene import Frame, Scene


@dataclass(frozen=True, eq=False)
class NvmModel:
    """The first (largest) model of an NVM file, its pixels still relative to the middle of the picture."""

    names: tuple[str, ...]
    focals_px: tuple[float, ...]
    radials: tuple[float, ...]
    poses: tuple[Pose, ...]
    """`world_from_cam`."""
    points_world: Array
    rgb: NDArray[np.uint8]
    seen_point: NDArray[np.int32]
    seen_name: NDArray[np.int32]
    """(M,) index into `names`."""
    seen_from_middle_px: Array
    notes: tuple[str, ...]

    def camera(self, index: int, width: int, height: int) -> Camera:
        """Intrinsics of picture `index` of that size.

        VisualSFM undistorts, x (1 + r |x|²); its inverse to second order in r is our k1 = -r, k2 = 3 r².
        """
        focal, radial = self.focals_px[index], self.radials[index]
        if radial == 0:
            return Camera.from_focal(width, height, focal)
        distortion = (-radial, 3 * radial * radial, 0.0, 0.0)
        return Camera(width, height, focal, focal, width / 2, height / 2, "opencv", distortion)

    def points(self, frame_of: Sequence[int | None], cameras: Sequence[Camera]) -> PointCloud:
        """The points as seen by frames.

        Args:
            frame_of: for each picture of the model the index of its frame, or None.
            cameras: for each frame its camera.
        """
        frame = np.array([-1 if index is None else index for index in frame_of], np.int32)[self.seen_name]
        known = frame >= 0
        middles = np.array([(camera.width / 2, camera.height / 2) for camera in cameras]).reshape(-1, 2)
        pixels = self.seen_from_middle_px[known] + middles[frame[known]]
        return PointCloud(self.points_world, self.rgb, self.seen_point[known], frame[known], pixels.astype(np.float32))


def read(root: Path, *, images: Path | None = None, metric: bool = False) -> Scene:
    """The largest model of the one `*.nvm` file in `root`.

    NVM holds the rotation as a quaternion cam_from_world but the camera *centre*, not the translation.

    Args:
        images: the folder that picture names are relative to; `root` by default.
        metric: whether the model is known to be in metres.
    Raises:
        FormatError: the file is damaged or pictures are missing.
    """
    files = sorted(root.glob("*.nvm"))
    if len(files) != 1:
        raise SceneError(f"{root}: {len(files)} .nvm files, expected one; move the others away")
    model = read_model(files[0])
    folder = images or root
    paths = located(folder, model.names, files[0])
    found = [model.camera(index, *size_px(folder / path)) for index, path in enumerate(paths)]
    cameras, keys = keyed(found)
    frames = tuple(
        Frame(clean_name(name), path, key, pose)
        for name, path, key, pose in zip(model.names, paths, keys, model.poses, strict=True)
    )
    points = model.points(range(len(frames)), found)
    return Scene(root.name, "sfm", metric, frames, cameras, folder, points=points, notes=model.notes)


def read_model(path: Path) -> NvmModel:
    """Parse the first model of an NVM file.

    Raises:
        FormatError: it is not NVM_V3, or a line is damaged.
    """
    table = rows(path)
    if not table or table[0].fields[0] != "NVM_V3":
        raise FormatError(f"{path}:1: the first line reads NVM_V3; save the model again with VisualSFM")
    count = _count(path, table, 1, "pictures")
    quaternions = Quaternions(path.name)
    entries = [_camera_row(row, quaternions) for row in table[2 : 2 + count]]
    point_count = _count(path, table, 2 + count, "points")
    points = table[3 + count : 3 + count + point_count]
    rest = table[3 + count + point_count :]
    notes = quaternions.notes
    if rest and rest[0].fields[0] not in ("0", "NVM_V3"):
        notes += (f"{path.name}: only its first model is used",)
    seen = [_measurements(index, row, count) for index, row in enumerate(points)]
    flat = np.concatenate(seen) if seen else np.zeros((0, 4))
    values = np.array([row.numbers(0, 6, "a point") for row in points]).reshape(-1, 6)
    names, focals, radials, poses = zip(*entries, strict=True)
    return NvmModel(
        names=names,
        focals_px=focals,
        radials=radials,
        poses=poses,
        points_world=values[:, :3],
        rgb=values[:, 3:].clip(0, 255).astype(np.uint8),
        seen_point=flat[:, 0].astype(np.int32),
        seen_name=flat[:, 1].astype(np.int32),
        seen_from_middle_px=flat[:, 2:],
        notes=notes,
    )


def _count(path: Path, table: Sequence[Row], index: int, what: str) -> int:
    if index >= len(table):
        raise FormatError(f"{path}: ends before the number of {what}; the file is cut off")
    count = table[index].integer(0, f"the number of {what}")
    if count < (what == "pictures") or index + count >= len(table):
        left = len(table) - index - 1
        raise table[index].error(f"{count} {what} announced, {left} lines follow; the file is cut off")
    return count


def _camera_row(row: Row, quaternions: Quaternions) -> tuple[str, float, float, Pose]:
    """`name focal qw qx qy qz cx cy cz radial 0`; the name may hold blanks, so columns count from the end."""
    if len(row.fields) < 11:
        raise row.error(f"a picture has 11 columns, this line {len(row.fields)}")
    values = Row(row.path, row.number, row.fields[-10:])
    centre = values.numbers(5, 3, "the camera centre")
    cam_from_world = quaternions.pose(row, values.numbers(1, 4, "the quaternion"), np.zeros(3))
    pose = Pose(cam_from_world.rotation.T, centre)
    return " ".join(row.fields[:-10]), values.number_at(0, "the focal length"), values.number_at(8, "the radial"), pose


def _measurements(index: int, row: Row, pictures: int) -> Array:
    """(n, 4) rows (point, picture, x, y) of a line `X Y Z R G B n <picture feature x y>*`."""
    count = row.integer(6, "the number of measurements")
    values = row.numbers(7, 4 * count, f"{count} measurements").reshape(-1, 4)
    if count and (values[:, 0].min() < 0 or values[:, 0].max() >= pictures):
        raise row.error(f"a measurement names a picture that is not one of the {pictures}")
    values[:, 1] = values[:, 0]
    values[:, 0] = index
    return values
