"""placecell localize MAP IMAGES|SCENE RUN"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from placecell import catalog
from placecell.camera import Camera
from placecell.cli.terminal import Terminal, finish, parse
from placecell.errors import PlacecellError, SceneError
from placecell.estimate import Estimate, Query
from placecell.exif import photo_camera as photo_camera
from placecell.images import picture_files, read_exif, read_image
from placecell.localizer import Localizer, MapInfo, load_info
from placecell.localizer import camera_of_map as camera_of_map
from placecell.log import Log
from placecell.run import Asked, asked_of, localize_into
from placecell.scene import Scene

_SHOWN = 5


def main(words: Sequence[str]) -> None:
    """Localize pictures."""
    parse("localize", localize, words)


def localize(
    map: Annotated[Path, tyro.conf.Positional],
    pictures: Annotated[Path, tyro.conf.Positional],
    run: Annotated[Path, tyro.conf.Positional],
    split: Literal["train", "test", "all"] = "test",
    focal_px: float | None = None,
    threads: int = 2,
    device: Literal["cpu", "cuda"] = "cpu",
    overwrite: bool = False,
) -> None:
    """Answer where pictures were taken: a pose with its covariance, or the reason why there is none.

    Args:
        map: Map folder.
        pictures: A picture, a folder of them, or a scene folder.
        run: Run folder to make; an interrupted run goes on.
        split: Which frames of a scene are asked.
        focal_px: Focal length of pictures without a scene, at their size; otherwise that of the map's camera where the
            shape fits, else from EXIF, else guessed.
        threads: Processor threads.
        device: cpu, or cuda for families with networks.
        overwrite: Replace a finished run.
    """
    import cv2

    if threads < 1 or (focal_px is not None and not 0 < focal_px < 1e6):
        raise PlacecellError("--threads counts from 1, --focal-px is a length in pixels, often 1.2 times the width")
    cv2.setNumThreads(threads)
    log, info = Terminal(), load_info(map)
    guessed: list[str] = []
    scene = Scene.load(pictures) if (pictures / "scene.json").is_file() else None
    localizer = catalog.load_map(map, device=device)
    if scene is None:
        asked = photos_at(pictures, camera_of_map(info), focal_px, guessed)
    else:
        asked = frames_asked(scene, split, focal_px, depth=wants_depth(localizer))
    told = None if scene is None else _told(scene, split)
    found = localize_into(
        run, localizer, map, asked, scene=told, threads=threads, device=device, overwrite=overwrite, log=log
    )
    warn_of(found, guessed, log)
    seconds = [estimate.seconds for estimate in found if estimate.seconds is not None]
    pace = f", median {1e3 * float(np.median(seconds)):.0f} ms a picture" if seconds else ""
    answered = sum(estimate.world_from_cam is not None for estimate in found)
    finish(f"{run}: {answered} of {len(found)} pictures placed{pace}", _following(run, pictures, scene, info))


def wants_depth(localizer: Localizer) -> bool:
    """Whether a map needs the depth of the pictures it places."""
    return bool(getattr(localizer, "wants_depth", False))


def frames_asked(
    scene: Scene, split: Literal["train", "test", "all"], focal_px: float | None = None, *, depth: bool = False
) -> list[Asked]:
    """The frames of a split, with their own cameras and, if asked for, their depth.

    Raises:
        SceneError: there are none, or a focal length is given.
    """
    if focal_px is not None:
        raise SceneError(f"scene {scene.name} knows its cameras; drop --focal-px")
    frames = scene.split(split).frames
    if not frames:
        known = ", ".join(dict.fromkeys(frame.split for frame in scene.frames)) or "none"
        raise SceneError(f"scene {scene.name} has no {split} frames, only {known}; choose with --split")
    return asked_of(scene, frames, depth=depth)


def _told(scene: Scene, split: str) -> dict[str, str]:
    return {"name": scene.name, "fingerprint": scene.fingerprint, "labels": scene.labels, "split": split}


def photos_at(pictures: Path, usual: Camera, focal_px: float | None, guessed: list[str]) -> list[Asked]:
    """The picture or pictures at a path, called by their paths below it; `guessed` collects those of unknown lens.

    Args:
        usual: the camera of the map.

    Raises:
        SceneError: there is no picture.
    """
    if not pictures.exists():
        raise SceneError(f"{pictures}: no such file or folder; name a picture, a folder of them or a scene")
    files = picture_files(pictures) if pictures.is_dir() else [pictures]
    if not files:
        raise SceneError(
            f"{pictures} holds no pictures and is not a scene; name a picture, a folder of them or a scene"
        )
    root = pictures if pictures.is_dir() else pictures.parent
    asked = [_photo(path, path.relative_to(root).as_posix(), usual, focal_px, guessed) for path in files]
    if len(asked) == 1:
        asked[0].load()  # one picture that cannot be read is an error; among several it is an answer with a reason
    return asked


def _photo(path: Path, name: str, usual: Camera, focal_px: float | None, guessed: list[str]) -> Asked:
    def load() -> Query:
        image = read_image(path)
        camera, known = photo_camera(read_exif(path), usual, focal_px)
        if not known and name not in guessed:
            guessed.append(name)
        return Query(name, image, camera)

    return Asked(name, load, f"{_state(path)} {focal_px}")


def _state(path: Path) -> str:
    try:
        state = path.stat()
    except OSError:  # a broken link: the answer will say so
        return "missing"
    return f"{state.st_size} {state.st_mtime_ns}"


def warn_of(found: Sequence[Estimate], guessed: Sequence[str], log: Log) -> None:
    """Tell of pictures whose focal length was guessed, and of those without an answer."""
    if guessed:
        log.warn(
            f"{guessed[0]}{f' and {len(guessed) - 1} more' if len(guessed) > 1 else ''}: unlike the map's pictures and "
            "without a focal length in EXIF, so it was guessed as 1.2 times the longer side; pass --focal-px"
        )
    refused = [estimate for estimate in found if estimate.reason is not None]
    for estimate in refused[:_SHOWN]:
        reason = str(estimate.reason)
        log.warn(reason if estimate.name in reason else f"{estimate.name}: {reason}")
    if len(refused) > _SHOWN:
        log.warn(f"{len(refused) - _SHOWN} more have no answer either; their reasons are in predictions.jsonl")


def _following(run: Path, pictures: Path, scene: Scene | None, info: MapInfo) -> list[object]:
    if scene is not None and scene.fingerprint == info.scene_fingerprint:
        return ["placecell", "evaluate", run, pictures]
    return ["head", "-n", 3, run / "predictions.jsonl"]
