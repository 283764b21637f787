"""The pictures that label files speak of: where they lie, how large they are, and handing them on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from PIL import Image, UnidentifiedImageError

from placecell.camera import Camera
from placecell.errors import FormatError, ImageError, SceneError
from placecell.scene import Frame, Scene

Transfer = Literal["link", "copy"]

_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM")
_ENDINGS = (".png", ".jpg", ".jpeg", ".JPG", ".PNG", ".JPEG")


def clean_name(text: str) -> str:
    """A frame name of a path in a label file: POSIX, relative, without `.` and `..`, drive or backslash."""
    parts = PurePosixPath(text.strip().strip('"').replace("\\", "/")).parts
    return "/".join(part for part in parts if part not in ("/", "//", ".", "..") and not part.endswith(":"))


def located(root: Path, names: Sequence[str], source: Path, *, within: Sequence[str] = ("", "images")) -> list[str]:
    """Where each named picture lies, relative to `root`.

    A name without ending, or with another one than the file has (Cambridge's .jpg that are .png, 7-Scenes as JPEG),
    finds its picture too.

    Args:
        source: the label file, for the error.
        within: folders of `root` to look in.
    Raises:
        FormatError: pictures are missing; the text names the first and how many.
    """
    found = [_locate(root, name, within) for name in names]
    missing = [name for name, path in zip(names, found, strict=True) if path is None]
    if missing:
        raise FormatError(
            f"{root / missing[0]}: missing, as are {len(missing)} of the {len(names)} pictures "
            f"that {source.name} lists; put them there or give the folder they are in"
        )
    return [path for path in found if path is not None]


def _locate(root: Path, name: str, within: Sequence[str]) -> str | None:
    for folder in within:
        path = PurePosixPath(folder) / name
        if (root / path).is_file():
            return str(path)
        stems = (path.with_suffix(""), path) if path.suffix else (path,)
        for stem in stems:
            for ending in _ENDINGS:
                if (root / f"{stem}{ending}").is_file():
                    return f"{stem}{ending}"
    return None


def size_px(path: Path) -> tuple[int, int]:
    """Width and height of a picture as stored, which is what labels speak of, from its header alone.

    Not by `placecell.images`, which turns pictures upright and reads whole files: a data set has thousands.

    Raises:
        ImageError: not a picture.
    """
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            return picture.size
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: not a readable picture; restore the file") from error


def keyed(cameras: Iterable[Camera]) -> tuple[dict[str, Camera], list[str]]:
    """Distinct cameras under the keys "1", "2", …, and for each given camera its key."""
    keys: dict[Camera, str] = {}
    chosen = [keys.setdefault(camera, str(len(keys) + 1)) for camera in cameras]
    return {key: camera for camera, key in keys.items()}, chosen


def file_name(frame: Frame) -> str:
    """The frame's name, with the ending of its picture."""
    ending = Path(frame.image).suffix
    return frame.name if Path(frame.name).suffix == ending else frame.name + ending


def hand_on(scene: Scene, frame: Frame, target: Path, transfer: Transfer) -> None:
    """Link or copy a frame's picture to `target`.

    Raises:
        SceneError: the picture is missing.
    """
    source = scene.image_path(frame)
    if not source.is_file():
        raise SceneError(f"{source}: the picture of frame {frame.name} is missing; restore it or drop the frame")
    target.parent.mkdir(parents=True, exist_ok=True)
    if transfer == "link":
        try:
            target.symlink_to(os.path.realpath(source))
        except OSError:  # file systems without links
            shutil.copyfile(source, target)
    else:
        shutil.copyfile(source, target)
