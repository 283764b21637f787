"""What `placecell scene` is given (a video, photos, a data set), and the pictures in it to reconstruct from."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from placecell import datasets, video
from placecell.camera import Camera
from placecell.errors import SceneError
from placecell.images import picture_files, read_exif
from placecell.log import Log
from placecell.scene import Frame, Scene, Split, sequences
from placecell.sfm import Picture

Kind = Literal["videos", "photos", "dataset"]

_BLOCKS = 10


@dataclass(frozen=True)
class Source:
    """What was found at the path that the user gave."""

    kind: Kind
    path: Path
    files: tuple[Path, ...] = ()
    """The videos or photos; empty for a data set."""
    format: str | None = None
    """Of a data set: a key of `datasets.READERS`, or `scene` for a scene folder of placecell."""

    @property
    def name(self) -> str:
        """What the scene is called unless the user says otherwise."""
        return self.path.stem if self.path.is_file() else self.path.name


def recognize(path: Path, format: str | None = None) -> Source:
    """What lies at a path: one video, or a folder with a data set, videos, or photos.

    Args:
        format: the format of the data set, which is then not guessed.

    Raises:
        SceneError: nothing there, or nothing that scenes are made of.
    """
    path = path.absolute()
    if path.is_file():
        return _file(path, format)
    if not path.is_dir():
        raise SceneError(f"{path}: no such file or folder; name a video, a folder of photos or a data set")
    if format is None and (path / "scene.json").is_file():
        format = "scene"
    if format is not None:
        return Source("dataset", path, format=format)
    try:
        return Source("dataset", path, format=datasets.detect(path))
    except SceneError:
        pass  # in no format of data sets: videos or photos
    videos = tuple(file for file in sorted(path.iterdir()) if _is_video(file))
    photos = tuple(picture_files(path))
    if videos and photos:
        raise SceneError(
            f"{path}: holds {len(videos)} videos and {len(photos)} pictures; move either to a folder of its own"
        )
    if not videos and not photos:
        raise SceneError(
            f"{path}: holds no pictures, no videos and no data set in a known format "
            f"({', '.join(datasets.READERS)}); name the folder that they lie in"
        )
    return Source("videos", path, videos) if videos else Source("photos", path, photos)


def _file(path: Path, format: str | None) -> Source:
    if format is not None:
        raise SceneError(f"{path}: a file, but data sets are folders; name the folder or drop --format")
    if path.suffix.lower() in video.SUFFIXES:
        return Source("videos", path, (path,))
    raise SceneError(
        f"{path}: not a video ({', '.join(sorted(video.SUFFIXES))}); name a video, a folder of photos or a data set"
    )


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in video.SUFFIXES and not path.name.startswith(".") and path.is_file()


def read_dataset(source: Source, **options: Any) -> Scene:
    """The scene of a data set or of a scene folder, with the labels that it comes with.

    Raises:
        SceneError: as `datasets.read`.
        FormatError: a file is damaged.
    """
    if source.format == "scene":
        if options:
            raise SceneError(f"{source.path}: a scene of placecell has one set of labels; drop --labels")
        return Scene.load(source.path)
    return datasets.read(source.path, source.format, **options)


def identity(files: Iterable[Path], settings: dict[str, Any]) -> dict[str, Any]:
    """What tells one input of a workspace from another: the files with sizes and times, and the settings.

    Raises:
        SceneError: a file is missing.
    """
    digest, count = hashlib.sha256(), 0
    for path in files:
        try:
            state = path.stat()
        except OSError as error:
            raise SceneError(f"{path}: not readable ({error.strerror}); restore it or leave it out") from error
        digest.update(f"{path.absolute().as_posix()}\0{state.st_size}\0{state.st_mtime_ns}\n".encode(errors="replace"))
        count += 1
    return {"format": 1, "files": count, "fingerprint": digest.hexdigest(), "settings": settings}


def photo_pictures(source: Source, *, every: int = 1, focal_px: float | None = None) -> list[Picture]:
    """The photos of a folder, their names relative to it; those of one folder below it are one sequence.

    Raises:
        ImageError: a photo cannot be read.
    """
    found = []
    for path in source.files[::every]:
        below = path.relative_to(source.path)
        exif = read_exif(path)
        camera = None if focal_px is None else Camera.from_focal(exif.width, exif.height, focal_px)
        folder = below.parent.as_posix()
        found.append(
            Picture(below.as_posix(), path, "" if folder == "." else folder, time_s=exif.time_s, camera=camera)
        )
    return found


def video_pictures(
    source: Source, folder: Path, *, every: int | None, count: int, focal_px: float | None, log: Log
) -> list[Picture]:
    """Frames chosen from each video, written to `folder`; each video is a sequence with a camera of its own.

    Args:
        every: take each `every`-th frame; otherwise sharp ones, equally far apart in the picture.
        count: at most so many chosen frames, shared out to several videos by their length.

    Raises:
        ImageError: a video cannot be decoded.
        PlacecellError: `folder` cannot be written, or the disk is full.
    """
    infos = [video.probe(path) for path in source.files]
    total = sum(max(info.frames, 1) for info in infos)
    names = _sequence_names(source.files)
    pictures: list[Picture] = []
    for path, info, name in zip(source.files, infos, names, strict=True):
        share = max(1, round(count * max(info.frames, 1) / total))
        chosen = video.select_frames(path, every=every, count=share, log=log)
        camera = None if focal_px is None else Camera.from_focal(info.width, info.height, focal_px)
        for frame, file in zip(chosen, video.extract_frames(path, chosen, folder / name, log), strict=True):
            label = file.name if len(source.files) == 1 else f"{name}/{file.name}"
            pictures.append(Picture(label, file, name, frame.time_s, lens=name, camera=camera))
    return pictures


def _sequence_names(files: Sequence[Path]) -> list[str]:
    stems = Counter(path.stem for path in files)
    return [path.stem if stems[path.stem] == 1 else path.name for path in files]


def scene_pictures(scene: Scene, focal_px: float | None = None) -> list[Picture]:
    """The pictures of a labelled scene without their poses: cameras to start from, sequences and times kept."""
    cameras = {
        key: camera if focal_px is None else Camera.from_focal(camera.width, camera.height, focal_px)
        for key, camera in scene.cameras.items()
    }
    return [
        Picture(
            name=frame.name,
            path=scene.image_path(frame),
            sequence=frame.sequence,
            time_s=frame.time_s,
            lens=frame.camera,
            camera=cameras[frame.camera],
        )
        for frame in scene.frames
    ]


def thin(scene: Scene, every: int) -> Scene:
    """Each `every`-th frame of each sequence."""
    kept = {frame.name for group in sequences(scene.frames).values() for frame in group[::every]}
    return scene.keep([frame.name in kept for frame in scene.frames])


def hold_out(scene: Scene, share: float) -> Scene:
    """The scene with about a share of its frames as test frames, in contiguous blocks.

    Neighbours in a video are near-duplicates: random frames would be tests of memory. Each sequence is cut into ten
    blocks (one a frame where it is shorter), and evenly spread blocks are held out until the share is reached, to
    within a block; one block at least stays.

    Raises:
        SceneError: the share is not between 0 and 1, or the scene has test frames of its own.
    """
    if not 0 < share < 1:
        raise SceneError(f"--holdout {share:g}: the share of test frames lies between 0 and 1, as in --holdout 0.2")
    if any(frame.split == "test" for frame in scene.frames):
        raise SceneError(f"scene {scene.name} comes with test frames of its own; drop --holdout")
    test = {name for group in sequences(scene.frames).values() for name in _held_out(group, share)}
    return replace(
        scene,
        frames=tuple(replace(frame, split=_split(frame.name in test)) for frame in scene.frames),
        notes=(*scene.notes, f"{len(test)} of {len(scene.frames)} frames held out as test, in contiguous blocks"),
    )


def _held_out(group: Sequence[Frame], share: float) -> list[str]:
    blocks, names = min(_BLOCKS, len(group)), list[str]()
    # Blocks may differ by a frame: where so many of the smaller ones fall short by a whole block, one more is taken.
    for taken in range(min(blocks - 1, math.ceil(share * blocks - 1e-9)), blocks):
        chosen = {int((index + 0.5) * blocks / taken) for index in range(taken)}
        names = [frame.name for index, frame in enumerate(group) if index * blocks // len(group) in chosen]
        if len(names) >= share * len(group) - len(group) // blocks:
            break
    return names


def _split(held_out: bool) -> Split:
    return "test" if held_out else "train"
