"""The one place that decodes video: its frames upright, and the choice of those worth keeping.

Frame numbers count every frame of the video from 0. Frames are RGB uint8 (H, W, 3), C-contiguous, with the rotation
flag that phones write applied.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from placecell import atomic
from placecell.errors import ImageError
from placecell.images import write_jpeg
from placecell.log import Log, Silent

SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".3gp", ".mts", ".mpg", ".mpeg"})

_CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".avi": "MJPG"}
_MEASURED_WIDTH_PX = 320
_MEASURED_FPS = 15.0
_STILL = 0.001
"""Motion in image widths that is noise of the tracker: a third of a pixel of the measured picture."""
_NEW_REFERENCE = 0.02
_LOST_TRAVEL = 0.1
"""What a step too fast to track counts as, in image widths."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself."""

    width: int
    """Of the upright frames."""
    height: int
    frames: int
    """As the file promises, 0 where it does not; what can be read may be fewer."""
    fps: float
    rotation_deg: int
    """The rotation flag, clockwise; already applied to width, height and every frame."""


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """One decoded frame."""

    index: int
    time_s: float
    image: NDArray[np.uint8]


@dataclass(frozen=True)
class Selected:
    """A frame worth keeping."""

    index: int
    time_s: float
    sharpness: float | None = None
    """Variance of the Laplacian at 320 px width; None where it was not measured."""
    travelled: float | None = None
    """Motion of the picture since the start of the video, in image widths; None where it was not measured."""


def probe(path: Path) -> VideoInfo:
    """Size, length and rate of a video.

    Raises:
        ImageError: the file is missing, or not a video that can be decoded.
    """
    with _opened(path) as capture:
        read, image = capture.read()
        if not read:
            raise ImageError(f"{path}: no frame of the video can be decoded; export it again, as H.264 in MP4")
        return VideoInfo(
            width=image.shape[1],
            height=image.shape[0],
            frames=max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))),
            fps=_fps(capture),
            rotation_deg=int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360,
        )


def frames(path: Path, start: int = 0, step: int = 1, log: Log | None = None) -> Iterator[VideoFrame]:
    """Every `step`-th frame of a video from frame `start` on.

    A video that ends before its promised length yields what is there, and the log is warned.

    Raises:
        ImageError: as `probe`.
    """
    if start < 0 or step < 1:
        raise ValueError(f"start {start} and step {step} count frames: start >= 0, step >= 1")
    with _opened(path) as capture:
        promised = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        fps = _fps(capture)
        # Decoding from the beginning: seeking lands on the wrong frame in many containers.
        index, time_s = 0, -math.inf
        while capture.grab():
            stamp_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
            time_s = stamp_s if stamp_s > time_s else index / fps
            if index >= start and (index - start) % step == 0:
                read, image = capture.retrieve()
                if read:
                    yield VideoFrame(index, time_s, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            index += 1
        if index == 0:
            raise ImageError(f"{path}: no frame of the video can be decoded; export it again, as H.264 in MP4")
        if index < 0.99 * promised:  # containers are often one frame off
            (log or Silent()).warn(f"{path}: the video ends early: {index} of {promised} frames could be read")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if path.is_dir():
        raise ImageError(f"{path}: a folder, not a video; name a video in it")
    if not path.is_file():
        raise ImageError(f"{path}: no such video; check the path")
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise ImageError(f"{path}: not a video, or damaged or cut short; export it again, as H.264 in MP4")
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        yield capture
    finally:
        capture.release()


def _fps(capture: Any) -> float:
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return fps if 0.1 < fps < 1000 else 30.0


def select_frames(
    path: Path, *, every: int | None = None, count: int = 300, overlap: float = 0.9, log: Log | None = None
) -> list[Selected]:
    """Choose frames to reconstruct a place from: about equally far apart in the picture, and sharp.

    Motion is that of tracked corners, not time: where the camera rests, one frame is kept. Neighbouring frames share
    about `overlap` of their width, less if more than `count` frames would be needed.

    Args:
        every: take each `every`-th frame instead, measured by nothing and limited by nothing.

    Raises:
        ImageError: as `probe`.
    """
    log = log or Silent()
    info = probe(path)
    if every is not None:
        stepped = log.track(frames(path, step=every, log=log), "reading the video", _steps(info.frames, every))
        return [Selected(frame.index, frame.time_s) for frame in stepped]
    if count < 1 or not 0 < overlap < 1:
        raise ValueError(f"count {count} has to be positive and overlap {overlap} between 0 and 1")
    stride = max(1, round(info.fps / _MEASURED_FPS))
    source = log.track(frames(path, step=stride, log=log), "measuring the video", _steps(info.frames, stride))
    return choose(list(_measure(source)), count, 1.0 - overlap)


def _steps(length: int, step: int) -> int | None:
    return math.ceil(length / step) or None


def choose(measured: Sequence[Selected], count: int, spacing: float) -> list[Selected]:
    """The sharpest of the frames around each of at most `count` equidistant points of the way travelled.

    The points lie at least `spacing` image widths apart; frames further from one than a quarter of the distance between
    them are taken only when there is none nearer.
    """
    if not measured:
        return []
    travelled = np.array([frame.travelled or 0.0 for frame in measured])
    sharpness = np.array([frame.sharpness or 0.0 for frame in measured])
    length = float(travelled[-1])
    points = min(count, 1 + int(length / spacing + 1e-9))
    if points == 1:
        return [measured[int(sharpness.argmax())]]
    distance = length / (points - 1)
    chosen: set[int] = set()
    for target in np.linspace(0.0, length, points):
        away = np.abs(travelled - target)
        reach = max(0.25 * distance, float(away.min()) + 1e-12)
        chosen.add(int(np.where(away <= reach, sharpness, -1.0).argmax()))
    return [measured[index] for index in sorted(chosen)]


def _measure(source: Iterable[VideoFrame]) -> Iterator[Selected]:
    tracker = _Tracker()
    for frame in source:
        height, width = frame.image.shape[:2]
        size = (_MEASURED_WIDTH_PX, max(1, round(height * _MEASURED_WIDTH_PX / width)))
        grey = cv2.resize(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
        sharpness = float(cv2.Laplacian(grey, cv2.CV_32F).var())
        yield Selected(frame.index, frame.time_s, sharpness, tracker.advance(grey))


class _Tracker:
    """How far the picture has moved, summed over references: noise of a resting camera does not add up."""

    def __init__(self) -> None:
        self._reference: NDArray[np.uint8] | None = None
        self._corners: NDArray[np.float32] | None = None
        self._travelled_at_reference = 0.0
        self._travelled = 0.0

    def advance(self, grey: NDArray[np.uint8]) -> float:
        """Way travelled up to this picture, in image widths."""
        if self._reference is None or self._corners is None:
            self._refer_to(grey)
            return self._travelled
        motion = _median_motion(self._reference, self._corners, grey)
        if motion is None:
            if _corners(grey) is None:  # black or blank: says nothing of motion, so wait for the next
                return self._travelled
            motion = _LOST_TRAVEL
        if motion > _STILL:
            self._travelled = max(self._travelled, self._travelled_at_reference + motion)
        if motion >= _NEW_REFERENCE:
            self._refer_to(grey)
        return self._travelled

    def _refer_to(self, grey: NDArray[np.uint8]) -> None:
        self._reference, self._corners = grey, _corners(grey)
        self._travelled_at_reference = self._travelled


def _corners(grey: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """(N, 1, 2) corners, or None where the picture has too few to tell motion."""
    found = cv2.goodFeaturesToTrack(grey, maxCorners=200, qualityLevel=0.01, minDistance=8)
    return found if found is not None and len(found) >= 8 and float(grey.std()) > 2 else None


def _median_motion(reference: NDArray[np.uint8], corners: NDArray[np.float32], grey: NDArray[np.uint8]) -> float | None:
    """Median displacement of the corners in image widths, by pyramidal Lucas-Kanade; None when most are lost."""
    moved, found, _ = cv2.calcOpticalFlowPyrLK(reference, grey, corners, None, winSize=(21, 21), maxLevel=3)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(grey, reference, moved, None, winSize=(21, 21), maxLevel=3)
    returned = np.linalg.norm((back - corners).reshape(-1, 2), axis=1) < 1.0
    good = (found.ravel() == 1) & (found_back.ravel() == 1) & returned
    if good.sum() < max(6, 0.3 * len(corners)):
        return None
    return float(np.median(np.linalg.norm((moved - corners).reshape(-1, 2)[good], axis=1)) / reference.shape[1])


def extract_frames(path: Path, selection: Sequence[Selected], folder: Path, log: Log | None = None) -> list[Path]:
    """Write the selected frames as `frame-000123.jpg` (the number is the frame's in the video), quality 95.

    Frames that are there already are kept, so that an interrupted run goes on where it stopped.

    Raises:
        ImageError: as `probe`, or a selected frame cannot be decoded.
        PlacecellError: the folder cannot be written or the disk is full.
    """
    log = log or Silent()
    paths = {chosen.index: folder / f"frame-{chosen.index:06d}.jpg" for chosen in selection}
    missing = {index for index, target in paths.items() if not target.is_file()}
    last = max(missing, default=-1)
    if missing:
        for frame in log.track(frames(path), "extracting frames", last + 1):
            if frame.index in missing:
                write_jpeg(paths[frame.index], frame.image, quality=95)
                missing.remove(frame.index)
            if frame.index >= last:
                break
    if missing:
        raise ImageError(f"{path}: frame {min(missing)} cannot be decoded; select the frames of this video again")
    return [paths[chosen.index] for chosen in selection]


def write_video(path: Path, images: Iterable[NDArray[np.uint8]], fps: float = 30.0) -> None:
    """Write RGB pictures of one size as a video, whole or not at all: MPEG-4 in .mp4 or .mov, motion JPEG in .avi.

    Raises:
        ImageError: no pictures, pictures of several sizes, another suffix, or no encoder for it.
        PlacecellError: the folder cannot be written or the disk is full.
    """
    codec = _CODECS.get(path.suffix.lower())
    if codec is None:
        raise ImageError(f"{path}: videos are written as {', '.join(_CODECS)}; choose one of these suffixes")
    with TemporaryDirectory() as aside:
        draft = Path(aside) / f"video{path.suffix.lower()}"
        _encode(draft, images, fps, codec)
        if not draft.is_file():
            raise ImageError(f"{path}: no pictures to write; give at least one")
        atomic.write_bytes(path, draft.read_bytes())


def _encode(path: Path, images: Iterable[NDArray[np.uint8]], fps: float, codec: str) -> None:
    writer: Any = None
    size: tuple[int, ...] = ()
    try:
        for image in images:
            if writer is None:
                size = image.shape
                code = cv2.VideoWriter.fourcc(*codec)
                writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, fps, (size[1], size[0]))
                if not writer.isOpened():
                    raise ImageError(f"this OpenCV cannot encode {codec} at {size[1]}x{size[0]} px; use another suffix")
            if image.shape != size:
                raise ImageError(f"a video has pictures of one size, not {size[:2]} and {image.shape[:2]}; resize them")
            writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    finally:
        if writer is not None:
            writer.release()
