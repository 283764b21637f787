"""The pictures that structure from motion is given, and the lenses to start from: what is known, or a guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pycolmap

from placecell.camera import Camera
from placecell.colmap import to_colmap
from placecell.exif import camera_guess
from placecell.images import read_exif


@dataclass(frozen=True)
class Picture:
    """A picture to reconstruct from."""

    name: str
    path: Path
    sequence: str = ""
    time_s: float | None = None
    lens: str | None = None
    """Pictures of one lens share their intrinsics; None: told by EXIF, else it has its own."""
    camera: Camera | None = None
    """Intrinsics to start from; otherwise guessed from EXIF."""


@dataclass(frozen=True, eq=False)
class Lenses:
    """Cameras to refine, and which picture was taken by which."""

    cameras: list[Any]
    """`pycolmap.Camera`s with ids from 1."""
    of_picture: list[int]

    @property
    def sizes_px(self) -> list[int]:
        """The longer side of each picture."""
        return [max(self.cameras[lens].width, self.cameras[lens].height) for lens in self.of_picture]


def lenses_of(pictures: Sequence[Picture]) -> Lenses:
    """One camera for each lens that the pictures name; else for each maker, model, focal length and size of EXIF."""
    keys: dict[object, int] = {}
    cameras: list[Any] = []
    of_picture = []
    for number, picture in enumerate(pictures):
        exif = read_exif(picture.path)
        guess, known = camera_guess(exif)
        key: object = picture.lens if picture.lens is not None else (exif.device, guess) if known else number
        if picture.camera is not None:
            guess, known = picture.camera.resized(exif.width, exif.height), True
        key = (key, guess.width, guess.height)
        if key not in keys:
            keys[key] = len(cameras)
            cameras.append(_prior(guess, known, len(cameras) + 1))
        of_picture.append(keys[key])
    return Lenses(cameras, of_picture)


def _prior(guess: Camera, known: bool, camera_id: int) -> Any:
    """A camera to refine: with one focal length and one term of distortion, unless it comes with more."""
    theirs = to_colmap(guess, camera_id)
    if guess.model == "pinhole" and abs(guess.fx / guess.fy - 1) < 1e-3:
        theirs = pycolmap.Camera(
            camera_id=camera_id,
            model="SIMPLE_RADIAL",
            width=guess.width,
            height=guess.height,
            params=[guess.fx, guess.cx, guess.cy, 0.0],
        )
    theirs.has_prior_focal_length = known
    return theirs
