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
from placecell.errors import SceneError
from placecell.estimate import Query
from placecell.exif import camera_guess
from placecell.images import picture_files, read_exif, read_image
from placecell.localizer import load_info
from placecell.run import Asked, asked_of, localize_into
from placecell.scene import Scene, camera_from_json


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
    device: str = "cpu",
    overwrite: bool = False,
) -> None:
    """Answer where pictures were taken: a pose with its covariance, or the reason why there is none.

    Args:
        map: Map folder.
        pictures: A picture, a folder of them, or a scene folder.
        run: Run folder to make; an interrupted run goes on.
        split: Which frames of a scene are asked.
        focal_px: Focal length of pictures without a scene; otherwise from EXIF, else as the map's pictures have it.
        threads: Processor threads.
        device: cpu, or cuda for families with networks.
        overwrite: Replace a finished run.
    """
    import cv2

    cv2.setNumThreads(threads)
    log = Terminal()
    asked, scene = _asked(map, pictures, split, focal_px)
    localizer = catalog.load_map(map, device=device)
    found = localize_into(
        run, localizer, map, asked, scene=scene, threads=threads, device=device, overwrite=overwrite, log=log
    )
    answered = sum(estimate.world_from_cam is not None for estimate in found)
    for estimate in [estimate for estimate in found if estimate.reason][:5]:
        log.warn(f"{estimate.name}: {estimate.reason}")
    seconds = [estimate.seconds for estimate in found if estimate.seconds is not None]
    pace = f", median {1e3 * float(np.median(seconds)):.0f} ms a picture" if seconds else ""
    following = f"placecell evaluate {run} {pictures}" if scene else f"less {run / 'predictions.jsonl'}"
    finish(f"{run}: {answered} of {len(found)} pictures placed{pace}", following)


def _asked(
    map: Path, pictures: Path, split: Literal["train", "test", "all"], focal_px: float | None
) -> tuple[list[Asked], dict[str, str] | None]:
    if (pictures / "scene.json").is_file():
        scene = Scene.load(pictures)
        frames = scene.split(split).frames
        if not frames:
            raise SceneError(f"scene {scene.name} has no {split} frames; choose another --split")
        told = {"name": scene.name, "fingerprint": scene.fingerprint, "labels": scene.labels, "split": split}
        return asked_of(scene, frames), told
    files = picture_files(pictures) if pictures.is_dir() else [pictures]
    if not files:
        raise SceneError(
            f"{pictures} holds no pictures and is not a scene; name a picture, a folder of them or a scene"
        )
    usual = camera_from_json(load_info(map).extra["camera"])
    root = pictures if pictures.is_dir() else pictures.parent
    return [_photo(path, path.relative_to(root).as_posix(), usual, focal_px) for path in files], None


def _photo(path: Path, name: str, usual: Camera, focal_px: float | None) -> Asked:
    def load() -> Query:
        image = read_image(path)
        height, width = image.shape[:2]
        guess, known = camera_guess(read_exif(path))
        if focal_px is not None:
            return Query(name, image, Camera.from_focal(width, height, focal_px))
        if not known and abs(width * usual.height - height * usual.width) <= max(width, height):
            return Query(name, image, usual.resized(width, height))
        return Query(name, image, guess)

    return Asked(name, load)
