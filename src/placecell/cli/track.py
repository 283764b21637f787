"""placecell track MAP VIDEO|FOLDER|camera:0"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from placecell import atomic, catalog
from placecell.cli.terminal import Terminal, finish, parse, unused
from placecell.errors import ImageError, MapError, PlacecellError
from placecell.estimate import Estimate
from placecell.localizer import camera_of_map, load_info, wants_depth
from placecell.track import Format, Step, followed, line, live_steps, steps

_FORMATS: dict[str, Format] = {".jsonl": "jsonl", ".tum": "tum", ".txt": "tum"}


def main(words: Sequence[str]) -> None:
    """Follow a camera."""
    parse("track", track, words)


def track(
    map: Annotated[Path, tyro.conf.Positional],
    source: Annotated[Path | None, tyro.conf.Positional] = None,
    camera: int | None = None,
    format: Literal["text", "jsonl", "tum"] = "text",
    out: Path | None = None,
    focal_px: float | None = None,
    every: int = 1,
    fps: float = 30.0,
    threads: int = 2,
    overwrite: bool = False,
) -> None:
    """Answer a recording or a camera frame by frame, a line each as soon as it is known; each is placed for itself.

    No frame of a recording is left out. Of a camera that is faster than the map the latest frame counts, and those
    passed over are told; it goes on until Ctrl-C.

    Args:
        map: Map folder, exported or not.
        source: A video, a folder of pictures in the order of their names, or camera:0.
        camera: Number of a camera that is plugged in, from 0, in place of a source.
        format: What the lines are: text to read, jsonl as predictions.jsonl with time_s, tum (frames with a pose only).
        out: File for the answers as well, written at the end, or when stopped with what there is: .jsonl, .tum, .txt.
        focal_px: Focal length of all frames, at their size; otherwise as localize finds it.
        every: Take each so-many-th frame of a recording.
        fps: Of a folder of pictures.
        threads: Processor threads.
        overwrite: Replace the file if it exists.
    """
    import cv2

    camera = _camera_of(source, camera, every)
    _require(out, overwrite, focal_px, min(threads, every), fps)
    cv2.setNumThreads(threads)
    localizer = catalog.load_map(map)
    if wants_depth(localizer):
        raise MapError(f"{map} wants the depth of each picture, which recordings here have not; choose another map")
    usual = camera_of_map(load_info(map))
    if camera is not None:
        found = live_steps(camera, usual, focal_px=focal_px)
    else:
        found = steps(source or Path(), usual, focal_px=focal_px, every=every, fps=fps)
    told = _Told(format, out)
    stopped: BaseException | None = None
    try:
        for step, estimate in followed(localizer, found, live=camera is not None):
            told.tell(step, estimate)
    except (KeyboardInterrupt, ImageError) as error:  # what has been answered by then counts
        stopped = error
    told.write()
    ended = camera is not None and isinstance(stopped, KeyboardInterrupt) and told.frames > 0
    if stopped is not None and not ended:
        raise stopped
    if format != "text":
        Terminal().say(told.made)  # the lines on standard output are for a program
    elif out is None:
        words = source if source is not None else f"camera:{camera}"
        finish(told.made, ["placecell", "track", map, words, "--out", unused(Path("track.tum"))])
    else:
        finish(f"{out}: {told.made}", ["head", "-n", 3, out])


class _Told:
    """What has been said so far: lines on standard output, and those for the file."""

    def __init__(self, format: Format, out: Path | None) -> None:
        self._format, self._out, self._rows = format, out, list[str]()
        self._began, self.frames, self._placed, self._dropped = time.perf_counter(), 0, 0, 0

    def tell(self, step: Step, estimate: Estimate) -> None:
        """One frame."""
        self.frames += 1
        self._placed += estimate.world_from_cam is not None
        self._dropped += step.dropped
        if self._out is not None and (row := line(step, estimate, _FORMATS[self._out.suffix])) is not None:
            self._rows.append(row)
        if (told := line(step, estimate, self._format)) is not None:
            sys.stdout.write(f"{told}\n")
            sys.stdout.flush()

    def write(self) -> None:
        """The file, whole, unless there was nothing to answer."""
        if self._out is not None and self.frames:
            atomic.write_text(self._out, "".join(f"{row}\n" for row in self._rows))

    @property
    def made(self) -> str:
        """How many frames, and how fast."""
        pace = self.frames / (time.perf_counter() - self._began)
        dropped = f", {self._dropped} dropped as the camera is faster" if self._dropped else ""
        return f"{self._placed} of {self.frames} frames placed, {pace:.1f} frames/s{dropped}"


def _camera_of(source: Path | None, camera: int | None, every: int) -> int | None:
    """The number of the camera that is asked for; None for a recording.

    Raises:
        PlacecellError: both or neither are named, the number is none, or --every stands with a camera.
    """
    name = str(source) if source is not None else ""
    if name.startswith("camera:"):
        number = name.removeprefix("camera:")
        if not (number.isascii() and number.isdecimal()):
            raise PlacecellError(f"{name}: cameras are numbered, camera:0 is the first")
        source, camera = None, int(number) if camera is None else -1
    if (source is None) == (camera is None) or (camera is not None and camera < 0):
        raise PlacecellError("name a video, a folder of pictures, or one camera: --camera 0")
    if camera is not None and every != 1:
        raise PlacecellError("--every is of recordings; of a camera the latest frame counts")
    return camera


def _require(out: Path | None, overwrite: bool, focal_px: float | None, least: int, fps: float) -> None:
    """Refuse what cannot be before any work.

    Raises:
        PlacecellError: a figure is out of range, or the file cannot be made.
    """
    if least < 1 or not fps > 0 or (focal_px is not None and not 0 < focal_px < 1e6):
        raise PlacecellError("--threads and --every count from 1, --fps and --focal-px are positive")
    if out is None:
        return
    if out.suffix not in _FORMATS:
        raise PlacecellError(f"{out}: answers are written as {', '.join(_FORMATS)}; choose one of these suffixes")
    if out.exists() and not (overwrite and out.is_file()):
        raise PlacecellError(f"{out} exists already; name another file or pass --overwrite")
