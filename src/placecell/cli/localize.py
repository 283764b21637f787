"""placecell localize MAP IMAGES|SCENE RUN, or of several maps: --maps MAP … -- IMAGES|SCENE RUN"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from placecell import catalog
from placecell.camera import Camera
from placecell.cli.terminal import Terminal, finish, parse
from placecell.combine.calibrated import Calibrated
from placecell.errors import MapError, PlacecellError, SceneError
from placecell.estimate import Estimate, Query
from placecell.exif import photo_camera
from placecell.images import picture_files, read_exif, read_image
from placecell.localizer import Localizer, MapInfo, camera_of_map, load_info, wants_depth
from placecell.log import Log
from placecell.run import Asked, asked_of, localize_into
from placecell.scene import Scene

_SHOWN = 5


def main(words: Sequence[str]) -> None:
    """Localize pictures."""
    if any(word == "--maps" or word.startswith("--maps=") for word in words):
        from placecell.cli.among import localize_among

        localize_among(words)
    else:
        parse("localize", localize, words)


def localize(
    map: Annotated[Path, tyro.conf.Positional],
    pictures: Annotated[Path, tyro.conf.Positional],
    run: Annotated[Path, tyro.conf.Positional],
    split: Literal["train", "test", "all"] = "test",
    focal_px: float | None = None,
    min_confidence: float | None = None,
    threads: int = 2,
    device: Literal["cpu", "cuda"] = "cpu",
    overwrite: bool = False,
) -> None:
    """Answer where pictures were taken: a pose with its covariance, or the reason why there is none.

    `placecell localize --maps MAP MAP -- IMAGES RUN` asks several calibrated maps, and tells which knows a picture.

    Args:
        map: Map folder.
        pictures: A picture, a folder of them, or a scene folder.
        run: Run folder to make; an interrupted run goes on.
        split: Which frames of a scene are asked.
        focal_px: Focal length of pictures without a scene, at their size; otherwise that of the map's camera where the
            shape fits, else from EXIF, else guessed.
        min_confidence: Refuse answers of less confidence, of a calibrated map; answers are counted as sure at its own
            threshold.
        threads: Processor threads.
        device: cpu, or cuda for families with networks.
        overwrite: Replace a finished run.
    """
    import cv2

    require_sense(threads, focal_px, min_confidence)
    cv2.setNumThreads(threads)
    log, info = Terminal(), load_info(map)
    guessed: list[str] = []
    scene = Scene.load(pictures) if (pictures / "scene.json").is_file() else None
    localizer = accepting(map, catalog.load_map(map, device=device), min_confidence)
    if scene is None:
        asked = photos_at(pictures, camera_of_map(info), focal_px, guessed)
    else:
        asked = frames_asked(scene, split, focal_px, depth=wants_depth(localizer))
    found = localize_into(
        run,
        localizer,
        map,
        asked,
        scene=told_of(scene, split),
        threads=threads,
        device=device,
        least=min_confidence,
        threshold=localizer.calibration.threshold if isinstance(localizer, Calibrated) else None,
        overwrite=overwrite,
        log=log,
    )
    warn_of(found, guessed, log)
    sure = ""
    if isinstance(localizer, Calibrated):
        own = localizer.calibration
        count = sum((estimate.confidence or 0.0) >= own.accept_at for estimate in found)
        sure = f", {count} of them surely within {own.threshold.name} (confidence {own.accept_at:.3f} or more)"
    finish(f"{run}: {placed(found)}{sure}", _following(run, pictures, scene, info))


def require_sense(threads: int, focal_px: float | None, min_confidence: float | None) -> None:
    """Raises PlacecellError for numbers that mean nothing."""
    if threads < 1 or (focal_px is not None and not 0 < focal_px < 1e6):
        raise PlacecellError("--threads counts from 1, --focal-px is a length in pixels, often 1.2 times the width")
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise PlacecellError(f"--min-confidence {min_confidence:g}: a probability is within 0 and 1")


def accepting(map: Path, localizer: Localizer, min_confidence: float | None) -> Localizer:
    """The map, refusing what it is less sure of.

    Raises:
        MapError: it is not calibrated, so it is not sure of anything.
    """
    if min_confidence is None:
        return localizer
    if not isinstance(localizer, Calibrated):
        raise MapError(f"{map} states no confidence; calibrate it first: placecell calibrate {map} SCENE")
    return replace(localizer, least=min_confidence)


def placed(found: Sequence[Estimate]) -> str:
    """How many pictures were placed, and how fast."""
    seconds = [estimate.seconds for estimate in found if estimate.seconds is not None]
    pace = f", median {1e3 * float(np.median(seconds)):.0f} ms a picture" if seconds else ""
    answered = sum(estimate.world_from_cam is not None for estimate in found)
    return f"{answered} of {len(found)} pictures placed{pace}"


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


def told_of(scene: Scene | None, split: str) -> dict[str, str] | None:
    """What run.json says of the scene that is asked."""
    if scene is None:
        return None
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
