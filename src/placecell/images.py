"""The one place that opens, orients, resizes and writes pictures.

Pictures are RGB uint8 (H, W, 3), upright (EXIF orientation applied) and C-contiguous. Colour profiles are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    ExifTags,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from placecell import atomic
from placecell.camera import Camera
from placecell.errors import ImageError
from placecell.estimate import Query
from placecell.exif import Exif as Exif
from placecell.exif import Gps as Gps
from placecell.exif import camera_guess as camera_guess
from placecell.exif import exif_from_tags, orientation
from placecell.scene import DepthSensor, Frame, Scene

MAX_PIXELS = 200_000_000
LEAST_DETAIL = 0.5
"""A picture with less `detail` than this shows nothing, neither to learn from nor to place."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm"})

# Chosen by content, never by suffix. Image.open would also try formats that start other programs (EPS), and has a
# global pixel limit of its own below that of today's phones.
_READERS: dict[bytes, Callable[[BytesIO], ImageFile]] = {
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"\x89PNG": PngImagePlugin.PngImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
    b"II*\0": TiffImagePlugin.TiffImageFile,
    b"MM\0*": TiffImagePlugin.TiffImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"P5": PpmImagePlugin.PpmImageFile,
    b"P6": PpmImagePlugin.PpmImageFile,
}

_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: image.transpose(1, 0, 2)[:, ::-1],
    7: lambda image: image.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda image: image.transpose(1, 0, 2)[::-1],
}
"""What undoes each EXIF orientation."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read a picture of any supported kind as upright RGB (H, W, 3); see `decode_image`.

    Raises:
        ImageError: the file is missing, empty, not a picture, damaged, cut short, or larger than 200 megapixels.
    """
    return decode_image(_read_content(path), str(path))


def decode_image(content: bytes, where: str, *, shrink: int = 1) -> NDArray[np.uint8]:
    """Decode the bytes of a picture to upright RGB (H, W, 3); `where` names them in errors.

    Grey, palette and CMYK become RGB, 16 bits keep their high byte, transparency is laid over white.

    Args:
        shrink: 2, 4 or 8 decodes a JPEG whose sides are multiples of it at that part of its size, each pixel the mean
            of a block by the first of its cosines, in a fraction of the time; other pictures keep their size.

    Raises:
        ImageError: as `read_image`.
    """
    picture = _open_picture(content, where)
    if shrink > 1 and any(side % shrink for side in picture.size):
        shrink = 1
    try:
        image = _plain_jpeg(picture, content, shrink)
        if image is None:
            if shrink > 1:
                picture.draft(picture.mode, (picture.size[0] // shrink, picture.size[1] // shrink))
            picture.load()
        # Read after loading: Pillow turns TIFF by itself and then drops the tag; a PNG may carry it behind the pixels.
        turn = _UPRIGHT.get(orientation(_exif_tags(picture, content)))
        if image is None:
            image = np.asarray(_to_rgb(picture, where), dtype=np.uint8)
        return np.ascontiguousarray(image if turn is None else turn(image))
    except ImageError:
        raise
    except Exception as error:  # decoders meet damaged files with a dozen exception types
        raise ImageError(f"{where}: damaged or cut short ({_brief(error)}); copy or export it again") from error


def _plain_jpeg(picture: ImageFile, content: bytes, shrink: int) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG in colours with nothing wrong about it, those that Pillow makes of it in half of the time;
    None of all others, to which Pillow has the last word."""
    if picture.format != "JPEG" or picture.mode != "RGB":
        return None
    width, height = (side // shrink for side in picture.size)
    try:
        image = simplejpeg.decode_jpeg(content, "RGB", min_height=height, min_width=width, min_factor=shrink)
        return np.asarray(image, np.uint8)
    except ValueError:
        return None


def _read_content(path: Path) -> bytes:
    """The bytes of a picture file.

    Raises:
        ImageError: the file is missing, a folder, or not readable.
    """
    try:
        return path.read_bytes()
    except IsADirectoryError as error:
        raise ImageError(f"{path}: a folder, not a picture; name a file in it") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{path}: not readable ({why}); check the path") from error


def _open_picture(content: bytes, where: str) -> ImageFile:
    """Parse the header of a picture, no pixels yet.

    Raises:
        ImageError: empty, of an unsupported kind, with a damaged header, or larger than `MAX_PIXELS`.
    """
    if not content:
        raise ImageError(f"{where}: empty (0 bytes); copy or export it again")
    if content[4:8] == b"ftyp":
        raise ImageError(f"{where}: HEIC, AVIF or a video, not a picture read here; export it as JPEG or PNG")
    reader = next((reader for magic, reader in _READERS.items() if content.startswith(magic)), None)
    if reader is None:
        raise ImageError(
            f"{where}: not a picture (it starts with {content[:8]!r}); supported are JPEG, PNG, WebP, TIFF, BMP, PNM"
        )
    try:
        picture = reader(BytesIO(content))
    except Exception as error:  # as in decode_image
        raise ImageError(f"{where}: damaged or unsupported header ({_brief(error)}); export it again") from error
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{where}: {width}x{height} px, more than {MAX_PIXELS // 10**6} megapixels; shrink it first")
    return picture


def _exif_tags(picture: ImageFile, content: bytes) -> Image.Exif:
    """EXIF tags of a picture; empty where there are none or they are damaged."""
    # For a PNG without them Pillow would decode all pixels, in search of a chunk behind them.
    if isinstance(picture, PngImagePlugin.PngImageFile) and not re.search(b"eXIf|Raw profile type exif", content):
        return Image.Exif()
    try:
        return picture.getexif()
    except Exception:  # written by a thousand devices and editors, and never worth losing the picture for
        return Image.Exif()


def _to_rgb(picture: Image.Image, where: str) -> Image.Image:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I"):  # I;16 and its byte orders; I from 16-bit PGM
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"{where}: 32-bit grey is not a picture read here; export it with 8 or 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ImageError(f"{where}: floating-point grey is not a picture read here; export it with 8 or 16 bits")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return picture.convert("RGB")


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def read_exif(path: Path) -> Exif:
    """Size, orientation, focal length, position, time and device of a picture, its pixels not decoded.

    Raises:
        ImageError: as `read_image`, except for damage behind the header.
    """
    return exif_of(_read_content(path), str(path))


def exif_of(content: bytes, where: str) -> Exif:
    """What the bytes of a picture say of it, its pixels not decoded; `where` names them in errors.

    Raises:
        ImageError: as `read_exif`.
    """
    picture = _open_picture(content, where)
    width, height = picture.size
    if isinstance(picture, TiffImagePlugin.TiffImageFile):  # whose size Pillow has turned upright already
        width, height = picture.tag_v2[ExifTags.Base.ImageWidth], picture.tag_v2[ExifTags.Base.ImageLength]
    return exif_from_tags(_exif_tags(picture, content), int(width), int(height))


def read_depth(path: Path, sensor: DepthSensor) -> NDArray[np.float32]:
    """Read a depth picture as metres (H, W) along z of the depth camera, NaN where the sensor saw nothing.

    Raises:
        ImageError: as `read_image`, or not one channel of 16 bits, or not of the size of the sensor's camera.
    """
    picture = _open_picture(_read_content(path), str(path))
    if not picture.mode.startswith("I"):
        raise ImageError(f"{path}: {picture.mode} is not a depth picture; it needs one channel of 16 bits")
    if picture.size != (sensor.camera.width, sensor.camera.height):
        raise ImageError(
            f"{path}: {picture.size[0]}x{picture.size[1]} px, but the depth camera of the scene has "
            f"{sensor.camera.width}x{sensor.camera.height}; mend scene.json or the picture"
        )
    try:
        values = np.asarray(picture)
    except Exception as error:  # as in decode_image
        raise ImageError(f"{path}: damaged or cut short ({_brief(error)}); copy it again") from error
    depth_m = values.astype(np.float32) * np.float32(sensor.unit_m)
    depth_m[np.isin(values, sensor.invalid)] = np.nan
    return depth_m


def register_depth(depth_m: NDArray[np.float32], sensor: DepthSensor, camera: Camera) -> NDArray[np.float32]:
    """Depth (H, W) of the depth camera seen from the colour camera: metres along its z, NaN where nothing lands.

    Every depth pixel is moved to the one colour pixel it falls on, the nearest surface wins; a colour camera of finer
    resolution therefore keeps holes rather than inventing surfaces.
    """
    rows, columns = np.nonzero(np.isfinite(depth_m))
    rays = sensor.camera.rays(np.stack([columns, rows], axis=-1) + 0.5)
    points_cam = sensor.cam_from_depth.apply(rays * depth_m[rows, columns, None])
    pixels = camera.project(points_cam)
    inside = camera.contains(pixels)
    nearest = np.full((camera.height, camera.width), np.inf, np.float32)
    column, row = pixels[inside].astype(np.intp).T
    np.minimum.at(nearest, (row, column), points_cam[inside, 2].astype(np.float32))
    return np.where(np.isfinite(nearest), nearest, np.float32(np.nan))


def load_query(scene: Scene, frame: Frame, *, depth: bool = False) -> Query:
    """The picture of a frame with the intrinsics at its size and, if asked for, its depth in the colour camera.

    A picture stored at a multiple of the camera's size gets the resized camera.

    Raises:
        ImageError: the picture or the depth cannot be read, or the picture is not of the camera's proportions.
    """
    path = scene.image_path(frame)
    image = read_image(path)
    camera = _camera_at(scene.camera_of(frame), image.shape[1], image.shape[0], str(path))
    depth_m = None
    if depth and frame.depth is not None and scene.depth_sensor is not None:
        sensor = scene.depth_sensor
        depth_m = read_depth(scene.root / frame.depth, sensor)
        if not (sensor.camera == camera and np.allclose(sensor.cam_from_depth.matrix, np.eye(4), atol=1e-12)):
            depth_m = register_depth(depth_m, sensor, camera)
    return Query(frame.name, image, camera, depth_m, frame.time_s)


def _camera_at(camera: Camera, width: int, height: int, where: str) -> Camera:
    if (width, height) == (camera.width, camera.height):
        return camera
    scale = max(width, height) / max(camera.width, camera.height)
    # A resized picture has whole pixels: each side may be one off the exact multiple.
    if max(abs(camera.width * scale - width), abs(camera.height * scale - height)) > 1:
        raise ImageError(
            f"{where}: {width}x{height} px does not fit its camera of {camera.width}x{camera.height}; "
            "a cropped or turned picture needs a camera of its own"
        )
    return camera.resized(width, height)


def resize_image(
    image: NDArray[np.uint8], camera: Camera, *, short_side_px: int | None = None, max_side_px: int | None = None
) -> tuple[NDArray[np.uint8], Camera]:
    """A picture and its camera at another size, proportions kept to the pixel.

    `short_side_px` sets the shorter side; `max_side_px` only shrinks, until the longer side fits. Give exactly one.
    Shrinking averages over areas, so that no aliases become features.
    """
    if (short_side_px is None) == (max_side_px is None):
        raise ValueError("give either short_side_px or max_side_px")
    height, width = image.shape[:2]
    if (camera.width, camera.height) != (width, height):
        raise ValueError(f"camera is for {camera.width}x{camera.height} px, the image has {width}x{height}")
    if short_side_px is not None:
        scale = short_side_px / min(width, height)
    else:
        scale = min(1.0, (max_side_px or 0) / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return image, camera
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized: NDArray[np.uint8] = cv2.resize(image, size, interpolation=method)
    return resized, camera.resized(*size)


def detail(image: NDArray[np.uint8]) -> float:
    """Mean length of the grey gradient in every second row, grey levels a pixel: how much there is in a picture to
    place it by."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    here, right, below = grey[:-1:2, :-1], grey[:-1:2, 1:], grey[1::2, :-1]
    return float(cv2.magnitude(cv2.subtract(right, here), cv2.subtract(below, here)).mean())


def picture_files(folder: Path) -> list[Path]:
    """Pictures in a folder and the folders below it, in natural order (`9.jpg` before `10.jpg`), hidden ones left out.

    Raises:
        ImageError: not a folder.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder}: not a folder; name a folder of pictures")
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and (path.is_file() or not path.exists())  # a broken link is a picture that is missing, not one less
    ]
    return sorted(found, key=lambda path: _natural(path.relative_to(folder)))


def _natural(path: Path) -> tuple[list[list[tuple[int, str]]], str]:
    # (number, "") sorts against (-1, text) without comparing text to numbers.
    parts = [
        [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", part.casefold())]
        for part in path.parts
    ]
    return parts, path.as_posix()


def write_jpeg(path: Path, image: NDArray[np.uint8], quality: int = 95) -> None:
    """Write RGB uint8 (H, W, 3) as a JPEG file, whole or not at all.

    Raises:
        PlacecellError: the folder cannot be written or the disk is full.
    """
    atomic.write_bytes(path, jpeg_of(image, quality))


def jpeg_of(image: NDArray[np.uint8], quality: int = 95) -> bytes:
    """RGB uint8 (H, W, 3) as the content of a JPEG file."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_depth(path: Path, depth_m: NDArray[np.float32], unit_m: float = 0.001) -> None:
    """Write metres (H, W) as a 16-bit PNG that `read_depth` reads; 0 where NaN or beyond what 16 bits hold.

    Raises:
        PlacecellError: the folder cannot be written or the disk is full.
    """
    steps = np.nan_to_num(np.round(depth_m.astype(np.float64) / unit_m), nan=0.0, posinf=0.0, neginf=0.0)
    values = np.where((steps > 0) & (steps < 65535), steps, 0).astype(np.uint16)
    buffer = BytesIO()
    Image.fromarray(values).save(buffer, "PNG", compress_level=3)
    atomic.write_bytes(path, buffer.getvalue())
