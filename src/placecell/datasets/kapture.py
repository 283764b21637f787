"""kapture (Humenberger et al. 2020): sensors, records and trajectories as comma-separated text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from placecell.camera import Camera
from placecell.datasets.pictures import clean_name, located
from placecell.datasets.rows import Quaternions, Row, rows
from placecell.errors import FormatError, SceneError
from placecell.pose import Pose
from placecell.scene import Frame, Scene, Split

_PARTS: dict[str, Split] = {"": "train", "mapping": "train", "query": "test"}


def read(root: Path, *, metric: bool = False) -> Scene:
    """A folder with `sensors/`, or one with `mapping/sensors/` (train) and `query/sensors/` (test).

    `trajectories.txt` holds cam_from_world; a pose that is absent, or partial (rotation or position only), is none.

    Args:
        metric: whether the world is known to be in metres.
    Raises:
        FormatError: a file is damaged, the poses are those of rigs, or pictures are missing.
    """
    parts = {name: split for name, split in _PARTS.items() if (root / name / "sensors" / "sensors.txt").is_file()}
    if not parts:
        raise SceneError(f"{root}: no sensors/sensors.txt; name the folder that holds sensors/")
    frames: list[Frame] = []
    cameras: dict[str, Camera] = {}
    notes: tuple[str, ...] = ()
    for name, split in parts.items():
        prefix = f"{name}/" if len(parts) > 1 else ""
        folder = root / name / "sensors"
        found = _cameras(folder / "sensors.txt")
        part, remarks = _frames(root, folder, found, split)
        cameras |= {prefix + key: camera for key, camera in found.items()}
        frames += [replace(frame, name=prefix + frame.name, camera=prefix + frame.camera) for frame in part]
        notes += remarks
    used = {frame.camera for frame in frames}
    kept = {key: camera for key, camera in cameras.items() if key in used}
    return Scene(root.name, "kapture", metric, tuple(frames), kept, root, notes=notes)


def _frames(root: Path, folder: Path, cameras: dict[str, Camera], split: Split) -> tuple[list[Frame], tuple[str, ...]]:
    records = [row for row in rows(folder / "records_camera.txt", separator=",") if _is_picture(row, cameras)]
    poses, notes = _trajectories(folder)
    names = [row.text(2, "the picture") for row in records]
    paths = located(folder / "records_data", names, folder / "records_camera.txt", within=("",))
    frames = []
    for row, name, path in zip(records, names, paths, strict=True):
        pose = poses.get((row.fields[0], row.fields[1]))
        image = (folder / "records_data" / path).relative_to(root).as_posix()
        frames.append(Frame(clean_name(name), image, row.fields[1], pose, row.fields[1], split))
    without = sum(frame.world_from_cam is None for frame in frames)
    if without:
        notes += (f"{without} of {len(frames)} pictures have no whole pose in {folder / 'trajectories.txt'}",)
    return frames, notes


def _is_picture(row: Row, cameras: dict[str, Camera]) -> bool:
    if row.text(1, "the sensor") not in cameras:
        raise row.error(
            f"sensor {row.fields[1]!r} is no camera of sensors.txt; known are {', '.join(cameras) or 'none'}"
        )
    return True


def _trajectories(folder: Path) -> tuple[dict[tuple[str, str], Pose], tuple[str, ...]]:
    path = folder / "trajectories.txt"
    if not path.is_file():
        return {}, ()
    rigs = (
        {row.fields[0] for row in rows(folder / "rigs.txt", separator=",")} if (folder / "rigs.txt").is_file() else ()
    )
    quaternions = Quaternions(path.name)
    poses = {}
    for row in rows(path, separator=","):
        if row.text(1, "the device") in rigs:
            raise row.error(f"{row.fields[1]!r} is a rig; write the poses of its cameras first (kapture's rigs_remove)")
        row.text(8, "the last of tx ty tz")
        values = row.fields[2:9]
        if any(value == "" for value in values) or all(value.lower() == "nan" for value in values[:4]):
            continue  # a partial pose
        cam_from_world = quaternions.pose(
            row, row.numbers(2, 4, "the quaternion"), row.numbers(6, 3, "the translation")
        )
        poses[row.fields[0], row.fields[1]] = cam_from_world.inv
    return poses, quaternions.notes


def _cameras(path: Path) -> dict[str, Camera]:
    """Cameras of `id, name, camera, MODEL, width, height, params…`; the models are COLMAP's."""
    cameras = {}
    for row in rows(path, separator=","):
        if row.text(2, "the kind of sensor") == "camera":
            cameras[row.fields[0]] = _camera(row)
    return cameras


def _camera(row: Row) -> Camera:
    import pycolmap

    from placecell.colmap import from_colmap

    model, width, height = row.text(3, "the model"), row.integer(4, "the width"), row.integer(5, "the height")
    if model == "UNKNOWN_CAMERA":
        raise row.error("an UNKNOWN_CAMERA has no intrinsics; give it a model, e.g. SIMPLE_PINHOLE, w, h, f, cx, cy")
    count = len(row.fields) - 6
    try:
        camera = pycolmap.Camera(
            model=model, width=width, height=height, params=row.numbers(6, count, "the parameters").tolist()
        )
        if not camera.verify_params():
            raise row.error(f"{model} does not take {count} parameters")
        return from_colmap(camera)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise row.error(f"camera model {model} is unknown ({error})") from error
    except FormatError as error:
        raise error if str(error).startswith(str(row.path)) else row.error(str(error)) from error
