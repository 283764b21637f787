"""placecell track MAP VIDEO|FOLDER"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from placecell import atomic, catalog
from placecell.cli.terminal import Terminal, finish, parse, unused
from placecell.errors import MapError, PlacecellError
from placecell.localizer import camera_of_map, load_info, wants_depth
from placecell.track import Format, followed, line, steps

_FORMATS: dict[str, Format] = {".jsonl": "jsonl", ".tum": "tum", ".txt": "tum"}


def main(words: Sequence[str]) -> None:
    """Follow a camera."""
    parse("track", track, words)


def track(
    map: Annotated[Path, tyro.conf.Positional],
    source: Annotated[Path, tyro.conf.Positional],
    format: Literal["text", "jsonl", "tum"] = "text",
    out: Path | None = None,
    focal_px: float | None = None,
    every: int = 1,
    fps: float = 30.0,
    threads: int = 2,
    overwrite: bool = False,
) -> None:
    """Answer a recording frame by frame, a line each as soon as it is known; each frame is placed for itself.

    Args:
        map: Map folder, exported or not.
        source: A video, or a folder of pictures in the order of their names.
        format: What the lines are: text to read, jsonl as predictions.jsonl with time_s, tum (frames with a pose only).
        out: File for the answers as well, whole when all are there: .jsonl, or .tum (also .txt).
        focal_px: Focal length of all frames, at their size; otherwise as localize finds it.
        every: Take each so-many-th frame.
        fps: Of a folder of pictures.
        threads: Processor threads.
        overwrite: Replace the file if it exists.
    """
    import cv2

    _require(out, overwrite, focal_px, min(threads, every), fps)
    cv2.setNumThreads(threads)
    localizer = catalog.load_map(map)
    if wants_depth(localizer):
        raise MapError(f"{map} wants the depth of each picture, which recordings here have not; choose another map")
    found = steps(source, camera_of_map(load_info(map)), focal_px=focal_px, every=every, fps=fps)
    began, kept, frames, placed = time.perf_counter(), list[str](), 0, 0
    for step, estimate in followed(localizer, found):
        frames, placed = frames + 1, placed + (estimate.world_from_cam is not None)
        if (told := line(step, estimate, format)) is not None:
            print(told, flush=True)
        if out is not None and (row := line(step, estimate, _FORMATS[out.suffix])) is not None:
            kept.append(row)
    pace = frames / (time.perf_counter() - began)
    if out is not None:
        atomic.write_text(out, "".join(f"{row}\n" for row in kept))
    made = f"{placed} of {frames} frames placed, {pace:.1f} frames/s"
    if format != "text":
        Terminal().say(made)  # the lines on standard output are for a program
    elif out is None:
        finish(made, ["placecell", "track", map, source, "--out", unused(Path("track.tum"))])
    else:
        finish(f"{out}: {made}", ["head", "-n", 3, out])


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
