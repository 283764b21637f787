"""TUM RGB-D (Sturm et al., IROS 2012): timed pictures and a timed trajectory, joined by time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from placecell import atomic
from placecell.camera import Camera
from placecell.datasets.pictures import Transfer, clean_name, file_name, hand_on, located, size_px
from placecell.datasets.rows import Quaternions, nearest, rows
from placecell.errors import FormatError
from placecell.pose import Pose
from placecell.scene import DepthSensor, Frame, Scene

# OpenCV calibrations, whose pixel centres are whole numbers: half a pixel is added to the principal points.
INTRINSICS = {
    "freiburg1": Camera(
        640, 480, 517.3, 516.5, 318.6 + 0.5, 255.3 + 0.5, "opencv", (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)
    ),
    "freiburg2": Camera(
        640, 480, 520.9, 521.0, 325.1 + 0.5, 249.7 + 0.5, "opencv", (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)
    ),
    "freiburg3": Camera(640, 480, 535.4, 539.2, 320.1 + 0.5, 247.6 + 0.5),
}
DEFAULT = Camera(640, 480, 525.0, 525.0, 319.5 + 0.5, 239.5 + 0.5)


def read(root: Path, *, camera: Camera | None = None, max_gap_s: float = 0.02) -> Scene:
    """A sequence: `rgb.txt` and `groundtruth.txt`, `depth.txt` if there; each picture takes the label nearest in time.

    A label is `time tx ty tz qx qy qz qw`, world_from_cam, w *last*. A picture with no label within `max_gap_s` has
    no pose, and is counted in the notes. Depth is registered to the colour, value / 5000 metres.

    Args:
        camera: by default told from the folder's name (freiburg1, 2 or 3), else 525 px and noted.
        max_gap_s: how far apart in time two records may be.
    Raises:
        FormatError: a file is damaged, or pictures are missing.
    """
    pictures = _timed_files(root, root / "rgb.txt")
    if not pictures.paths:
        raise FormatError(f"{root / 'rgb.txt'}: lists no picture; a line reads: time rgb/time.png")
    depths = _timed_files(root, root / "depth.txt") if (root / "depth.txt").is_file() else _TimedFiles((), (), ())
    times, poses, notes = _trajectory(root / "groundtruth.txt")
    if camera is None:
        camera, remarks = _camera_of(root, root / pictures.paths[0])
        notes += remarks
    frames = []
    for time, name, path in zip(pictures.times_s, pictures.names, pictures.paths, strict=True):
        label, depth = nearest(times, time, max_gap_s), nearest(depths.times_s, time, max_gap_s)
        pose = None if label is None else poses[label]
        depth_path = None if depth is None else depths.paths[depth]
        frames.append(Frame(name.removeprefix("rgb/"), path, "rgb", pose, depth=depth_path, time_s=time))
    without = sum(frame.world_from_cam is None for frame in frames)
    if without:
        notes += (f"{without} of {len(frames)} pictures have no label within {max_gap_s:g} s, and no pose",)
    sensor = DepthSensor(camera, Pose.identity(), unit_m=1 / 5000, invalid=(0,)) if depths.paths else None
    return Scene(root.name, "groundtruth", True, tuple(frames), {"rgb": camera}, root, sensor, notes=notes)


def write(scene: Scene, folder: Path, *, images: Transfer = "link", overwrite: bool = False) -> Path:
    """Write `rgb.txt`, `groundtruth.txt` and the pictures under `rgb/`, whole or not at all.

    Times are those of the frames, or their numbers where a frame has none or two share one. The format has no place
    for intrinsics, splits and sequences.

    Raises:
        SceneError: a picture is missing.
        PlacecellError: the folder exists, or cannot be written.
    """
    known = [frame.time_s for frame in scene.frames if frame.time_s is not None]
    timed = len(set(known)) == len(scene.frames)
    times = known if timed else [float(index) for index in range(len(scene.frames))]
    listing, trajectory = ["# timestamp filename"], ["# timestamp tx ty tz qx qy qz qw"]
    with atomic.new_folder(folder, replace=overwrite) as aside:
        for time, frame in zip(times, scene.frames, strict=True):
            name = f"rgb/{file_name(frame)}"
            hand_on(scene, frame, aside / name, images)
            listing.append(f"{time!r} {name}")
            if frame.world_from_cam is not None:
                trajectory.append(trajectory_line(time, frame.world_from_cam))
        (aside / "rgb.txt").write_text("\n".join(listing) + "\n", encoding="utf-8")
        (aside / "groundtruth.txt").write_text("\n".join(trajectory) + "\n", encoding="utf-8")
    return folder


def trajectory_line(time_s: float, world_from_cam: Pose) -> str:
    """`time tx ty tz qx qy qz qw`."""
    w, x, y, z = world_from_cam.quat_wxyz.tolist()
    return " ".join(repr(value) for value in (time_s, *world_from_cam.translation.tolist(), x, y, z, w))


@dataclass(frozen=True)
class _TimedFiles:
    times_s: tuple[float, ...]
    names: tuple[str, ...]
    paths: tuple[str, ...]


def _timed_files(root: Path, path: Path) -> _TimedFiles:
    """Lines `time file`, in order of time; the file may hold blanks."""
    table = [(row.number_at(0, "the time"), row.text(1, "the file") and " ".join(row.fields[1:])) for row in rows(path)]
    table.sort()
    names = [name for _, name in table]
    found = located(root, names, path)
    return _TimedFiles(tuple(time for time, _ in table), tuple(map(clean_name, names)), tuple(found))


def _trajectory(path: Path) -> tuple[list[float], list[Pose], tuple[str, ...]]:
    quaternions = Quaternions(path.name)
    labels = []
    for row in rows(path):
        quat_xyzw = row.numbers(4, 4, "the quaternion")
        pose = quaternions.pose(row, np.roll(quat_xyzw, 1), row.numbers(1, 3, "the position"))
        labels.append((row.number_at(0, "the time"), pose))
    labels.sort(key=lambda label: label[0])
    return [time for time, _ in labels], [pose for _, pose in labels], quaternions.notes


def _camera_of(root: Path, first: Path) -> tuple[Camera, tuple[str, ...]]:
    size = size_px(first)
    for name, camera in INTRINSICS.items():
        if name in root.resolve().name and size == (camera.width, camera.height):
            return camera, ()
    camera = DEFAULT.resized(*size)
    return camera, (f"the intrinsics are assumed ({camera.fx:g} px): the folder is not called freiburg1, 2 or 3",)
