"""A place as data: frames with cameras and poses, the points seen, and the folder that keeps them (docs/formats.md)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from placecell import atomic
from placecell.camera import Camera
from placecell.errors import FormatError, SceneError
from placecell.points import PointCloud, read_points, write_points
from placecell.pose import Pose

FORMAT = 1
Split = Literal["train", "test"]


@dataclass(frozen=True)
class Frame:
    """One picture of a scene."""

    name: str
    """Unique in the scene, POSIX style: `seq-01/frame-000000.color.jpg`."""
    image: str
    """Path of the picture, relative to `Scene.root`."""
    camera: str
    """Key of `Scene.cameras`."""
    world_from_cam: Pose | None = None
    """None where the labels do not know it."""
    sequence: str = ""
    split: Split = "train"
    depth: str | None = None
    """Path of the 16-bit depth picture of `Scene.depth_sensor`, relative to `Scene.root`."""
    time_s: float | None = None


@dataclass(frozen=True)
class DepthSensor:
    """What the depth pictures of a scene mean: value * unit_m metres along z of the depth camera's own axes."""

    camera: Camera
    cam_from_depth: Pose
    """From the depth camera's axes to the colour camera's."""
    unit_m: float = 0.001
    invalid: tuple[int, ...] = (0, 65535)


@dataclass(frozen=True)
class Scene:
    """A set of labelled pictures of one place, in one world frame. Immutable.

    Poses are `world_from_cam`, metres when `metric`, else an arbitrary unit. One scene has one set of labels.
    """

    name: str
    labels: str
    """Which ground truth the poses are: `sfm`, `kinectfusion`, `synthetic`, …"""
    metric: bool
    frames: tuple[Frame, ...]
    cameras: Mapping[str, Camera]
    root: Path
    """Folder that image and depth paths are relative to."""
    depth_sensor: DepthSensor | None = None
    points: PointCloud | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    """What the user should know of how the scene was made; shown by every report."""

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for frame in self.frames:
            if frame.name in seen:
                raise SceneError(f"scene {self.name}: two frames are called {frame.name}; names must be unique")
            seen.add(frame.name)
            if frame.camera not in self.cameras:
                raise SceneError(
                    f"scene {self.name}: frame {frame.name} names camera {frame.camera!r}, "
                    f"known are {', '.join(self.cameras) or 'none'}"
                )
            if not _is_plain_path(frame.name):
                raise SceneError(
                    f"scene {self.name}: frame name {frame.name!r} is not a plain relative path in UTF-8; rename it"
                )
        if self.points is not None and self.points.seen_frame.max(initial=-1) >= len(self.frames):
            raise SceneError(f"scene {self.name}: points are seen in frames that it does not have; make it again")

    @property
    def unit(self) -> str:
        """What lengths are in: `m`, or `units` when the scale is arbitrary."""
        return "m" if self.metric else "units"

    def split(self, name: Split | Literal["all"]) -> Scene:
        """The scene with the frames of one split only, and what they saw of the points."""
        return self if name == "all" else self.keep([frame.split == name for frame in self.frames])

    def keep(self, wanted: Sequence[bool]) -> Scene:
        """The scene with only the wanted frames; observations of the points follow, the points all stay."""
        mask = np.array(wanted, dtype=bool)
        frames = tuple(frame for frame, keep in zip(self.frames, wanted, strict=True) if keep)
        return replace(self, frames=frames, points=None if self.points is None else self.points.keep_frames(mask))

    @property
    def posed(self) -> tuple[Frame, ...]:
        """The frames whose pose is known."""
        return tuple(frame for frame in self.frames if frame.world_from_cam is not None)

    def camera_of(self, frame: Frame) -> Camera:
        """Intrinsics of a frame."""
        return self.cameras[frame.camera]

    def image_path(self, frame: Frame) -> Path:
        """Where a frame's picture lies."""
        return self.root / frame.image

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the labels, cameras and frames: equal scenes have equal fingerprints, wherever they lie."""
        digest = hashlib.sha256(json.dumps(self._header(), sort_keys=True).encode())
        for frame in self.frames:
            row = {k: v for k, v in _frame_to_json(frame).items() if k not in ("image", "depth", "quat_wxyz", "t")}
            if frame.world_from_cam is not None:
                # Rounded, as a rotation survives its quaternion but for the last bits; a matrix, as it has one sign.
                row["rotation"] = (frame.world_from_cam.rotation.round(7) + 0.0).tolist()
                row["translation"] = (frame.world_from_cam.translation + 0.0).tolist()
            digest.update(json.dumps(row, sort_keys=True).encode())
        return digest.hexdigest()[:16]

    def _header(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "labels": self.labels,
            "metric": self.metric,
            "cameras": {key: camera_to_json(camera) for key, camera in self.cameras.items()},
        }

    def save(self, folder: Path, *, images: Literal["link", "copy"] = "link", overwrite: bool = False) -> Scene:
        """Write the scene folder, whole or not at all, and return the scene as read back from it.

        Pictures that lie in the folder to be overwritten are copied, never linked, so a scene can replace itself.

        Raises:
            SceneError: a picture of the scene is missing, or two would get the same name.
            PlacecellError: the folder exists, or cannot be written.
        """
        doomed = os.path.realpath(folder)

        def transfer(source: Path, target: Path) -> None:
            if images == "link" and not Path(os.path.realpath(source)).is_relative_to(doomed):
                _link(source, target)
            else:
                shutil.copyfile(source, target)

        with atomic.new_folder(folder, replace=overwrite) as aside:
            frames = [self._with_files_in(aside, frame, transfer) for frame in self.frames]
            header: dict[str, Any] = {"format": FORMAT, **self._header(), "notes": list(self.notes)}
            if self.depth_sensor is not None:
                header["depth_sensor"] = _depth_to_json(self.depth_sensor)
            (aside / "scene.json").write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
            lines = (json.dumps(_frame_to_json(frame), ensure_ascii=False) + "\n" for frame in frames)
            (aside / "frames.jsonl").write_text("".join(lines), encoding="utf-8")
            if self.points is not None:
                write_points(self.points, aside)
        return Scene.load(folder)

    def _with_files_in(self, folder: Path, frame: Frame, transfer: Callable[[Path, Path], None]) -> Frame:
        moved = {}
        for kind, source in (("images", frame.image), ("depth", frame.depth)):
            if source is None:
                continue
            path = self.root / source
            if not path.is_file():
                raise SceneError(f"{path}: the picture of frame {frame.name} is missing; restore it or drop the frame")
            named = kind == "images" and Path(frame.name).suffix == path.suffix
            target = folder / kind / (frame.name if named else frame.name + path.suffix)
            if os.path.lexists(target):
                raise SceneError(
                    f"{target.relative_to(folder)} would hold two frames, one of them {frame.name}; rename it"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            transfer(path, target)
            moved[kind] = target.relative_to(folder).as_posix()
        return replace(frame, image=moved["images"], depth=moved.get("depth"))

    @classmethod
    def load(cls, folder: Path) -> Scene:
        """Read a scene folder.

        Raises:
            SceneError: not a scene folder.
            FormatError: a file of it is damaged; the text names file and line.
        """
        header_path = folder / "scene.json"
        if not header_path.is_file():
            raise SceneError(
                f"{folder} is not a scene (no scene.json); make one with: placecell scene VIDEO|PHOTOS|DATASET {folder}"
            )
        header = read_json(header_path)
        if header.get("format") != FORMAT:
            raise FormatError(f"{header_path}: format {header.get('format')}, this version reads {FORMAT}")
        try:
            cameras = {key: camera_from_json(value) for key, value in field_of(header, "cameras", dict).items()}
            depth = header.get("depth_sensor")
            scene = cls(
                name=field_of(header, "name", str),
                labels=field_of(header, "labels", str),
                metric=field_of(header, "metric", bool),
                frames=(),
                cameras=cameras,
                root=folder,
                depth_sensor=None if depth is None else _depth_from_json(depth),
                notes=tuple(str(note) for note in field_of(header, "notes", list)),
            )
        except (KeyError, TypeError, ValueError, FormatError) as error:
            raise FormatError(f"{header_path}: {_why(error)}; make the scene again") from error
        return replace(scene, frames=_read_frames(folder / "frames.jsonl", cameras), points=read_points(folder))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        FormatError: the file is missing, unreadable, or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError(f"{path}: not readable as JSON ({_why(error)}); restore the file or make it again") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}: not a JSON object; restore the file or make it again")
    return value


V = TypeVar("V")


def field_of(row: Mapping[str, Any], key: str, kind: type[V]) -> V:
    """The value of a JSON object at `key`, which has to be a `kind`.

    Raises:
        KeyError: it is missing.
        ValueError: it is of another kind.
    """
    value = row[key]
    if not isinstance(value, kind):
        raise ValueError(f"{key} is {json.dumps(value)[:60]}, not a {kind.__name__}")
    return value


def camera_to_json(camera: Camera) -> dict[str, Any]:
    """The camera as scene.json and map.json keep it."""
    return {
        "model": camera.model,
        "size": [camera.width, camera.height],
        "fx_fy_cx_cy": [camera.fx, camera.fy, camera.cx, camera.cy],
        "distortion": list(camera.distortion),
    }


def camera_from_json(value: Mapping[str, Any]) -> Camera:
    """Inverse of `camera_to_json`."""
    width, height = value["size"]
    fx, fy, cx, cy = value["fx_fy_cx_cy"]
    return Camera(width, height, fx, fy, cx, cy, value["model"], tuple(value["distortion"]))


def pose_to_json(pose: Pose | None) -> dict[str, Any]:
    """`quat_wxyz` and `t` of a `world_from_cam`, both null when unknown."""
    if pose is None:
        return {"quat_wxyz": None, "t": None}
    return {"quat_wxyz": pose.quat_wxyz.tolist(), "t": pose.translation.tolist()}


def pose_from_json(value: Mapping[str, Any]) -> Pose | None:
    """Inverse of `pose_to_json`."""
    if value["quat_wxyz"] is None:
        return None
    return Pose.from_quat_wxyz(value["quat_wxyz"], value["t"])


def _frame_to_json(frame: Frame) -> dict[str, Any]:
    row: dict[str, Any] = {"name": frame.name, "image": frame.image, "camera": frame.camera}
    row |= pose_to_json(frame.world_from_cam)
    row |= {"sequence": frame.sequence, "split": frame.split}
    if frame.depth is not None:
        row["depth"] = frame.depth
    if frame.time_s is not None:
        row["time_s"] = frame.time_s
    return row


def _read_frames(path: Path, cameras: Mapping[str, Camera]) -> tuple[Frame, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: not readable ({_why(error)}); restore the file or make the scene again") from error
    frames: dict[str, Frame] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            frame = _frame_from_json(json.loads(line), cameras)
            if frame.name in frames:
                raise ValueError(f"frame {frame.name} comes twice")
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path}:{number}: {_why(error)}; mend or delete the line") from error
        frames[frame.name] = frame
    return tuple(frames.values())


def _frame_from_json(row: Mapping[str, Any], cameras: Mapping[str, Camera]) -> Frame:
    if row["camera"] not in cameras:
        raise ValueError(f"camera {row['camera']!r} is not in scene.json, known are {', '.join(cameras) or 'none'}")
    if row["split"] not in get_args(Split):
        raise ValueError(f"split {row['split']!r}; known are {', '.join(get_args(Split))}")
    return Frame(
        name=field_of(row, "name", str),
        image=field_of(row, "image", str),
        camera=row["camera"],
        world_from_cam=pose_from_json(row),
        sequence=field_of(row, "sequence", str),
        split=row["split"],
        depth=None if row.get("depth") is None else field_of(row, "depth", str),
        time_s=None if row.get("time_s") is None else float(row["time_s"]),
    )


def _depth_to_json(sensor: DepthSensor) -> dict[str, Any]:
    return {
        "camera": camera_to_json(sensor.camera),
        "cam_from_depth": pose_to_json(sensor.cam_from_depth),
        "unit_m": sensor.unit_m,
        "invalid": list(sensor.invalid),
    }


def _depth_from_json(value: Mapping[str, Any]) -> DepthSensor:
    cam_from_depth = pose_from_json(value["cam_from_depth"])
    if cam_from_depth is None:
        raise ValueError("cam_from_depth has no pose")
    return DepthSensor(
        camera_from_json(value["camera"]), cam_from_depth, float(value["unit_m"]), tuple(value["invalid"])
    )


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(os.path.realpath(source))
    except OSError:  # file systems without links
        shutil.copyfile(source, target)


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {error.args[0]!r}"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _is_plain_path(name: str) -> bool:
    """Whether a name can be a file inside a folder: relative, without `..`, encodable."""
    path = PurePosixPath(name)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return path.name != "" and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def sequences(frames: Sequence[Frame]) -> dict[str, tuple[Frame, ...]]:
    """Frames by sequence, both in their order."""
    groups: dict[str, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(frame.sequence, []).append(frame)
    return {name: tuple(group) for name, group in groups.items()}


def centres(frames: Sequence[Frame]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """(N, 3) camera centres of frames whose pose is known."""
    found = [frame.world_from_cam.translation for frame in frames if frame.world_from_cam is not None]
    return np.array(found, dtype=np.float64).reshape(-1, 3)
