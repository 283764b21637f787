"""Picture after picture through a map: a folder, a video or a camera, an answer a time, the next decoded meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from placecell import video
from placecell.camera import Camera
from placecell.errors import ImageError
from placecell.estimate import Estimate, Query, estimate_to_json
from placecell.exif import Exif, photo_camera
from placecell.images import picture_files, read_exif, read_image
from placecell.live import live_frames
from placecell.localizer import Answering

Format = Literal["text", "jsonl", "tum"]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Step:
    """A frame of a recording: a query, or why it cannot be read."""

    name: str
    time_s: float
    query: Query | None
    reason: str | None = None
    dropped: int = 0
    """Frames of a live camera that were passed over before this one."""


def steps(
    source: Path, usual: Camera, *, focal_px: float | None = None, every: int = 1, fps: float = 30.0
) -> Iterator[Step]:
    """The frames of a video, or the pictures of a folder in natural order.

    Args:
        usual: the camera of the map; pictures of its shape are taken to be its own.
        focal_px: of all frames, at their size.
        every: take each `every`-th frame.
        fps: of the pictures of a folder.

    Raises:
        ImageError: the source is neither, or cannot be decoded.
    """
    if source.is_dir():
        files = picture_files(source)
        if not files:
            raise ImageError(f"{source}: no pictures in it; name a video or a folder of pictures")
        for index in range(0, len(files), every):
            yield _photo(files[index], source, index / fps, usual, focal_px)
        return
    if source.suffix.lower() not in video.SUFFIXES:
        raise ImageError(f"{source}: neither a folder of pictures nor a video ({', '.join(sorted(video.SUFFIXES))})")
    for frame in video.frames(source, step=every):
        height, width = frame.image.shape[:2]
        camera, _ = photo_camera(Exif(width, height), usual, focal_px)
        name = f"frame-{frame.index:06d}"
        yield Step(name, frame.time_s, Query(name, frame.image, camera, time_s=frame.time_s))


def live_steps(camera: int, usual: Camera, *, focal_px: float | None = None) -> Iterator[Step]:
    """The latest frame of a camera each time, without end; see `placecell.live.live_frames`.

    Raises:
        ImageError: there is no such camera, or it stops.
    """
    for frame in live_frames(camera):
        height, width = frame.image.shape[:2]
        lens, _ = photo_camera(Exif(width, height), usual, focal_px)
        query = Query(f"frame-{frame.index:06d}", frame.image, lens, time_s=frame.time_s)
        yield Step(query.name, frame.time_s, query, dropped=frame.dropped)


def _photo(path: Path, root: Path, time_s: float, usual: Camera, focal_px: float | None) -> Step:
    name = path.relative_to(root).as_posix()
    try:
        image = read_image(path)
        camera, _ = photo_camera(read_exif(path), usual, focal_px)
    except ImageError as error:
        return Step(name, time_s, None, str(error))
    return Step(name, time_s, Query(name, image, camera, time_s=time_s))


def followed(localizer: Answering, found: Iterator[Step], *, live: bool = False) -> Iterator[tuple[Step, Estimate]]:
    """Each frame with its answer, as soon as there is one.

    The next frame of a recording is decoded meanwhile, and none is left out. Of what is `live` it is fetched when it is
    needed, as it would grow old.
    """
    for step in found if live else ahead(found):
        if step.query is None:
            yield step, Estimate.refusal(step.name, step.reason or "not readable")
        else:
            yield step, localizer.localize([step.query])[0]


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The items, each fetched by another thread while the one before is in use."""
    end = object()
    take: Callable[[], object] = lambda: next(items, end)  # noqa: E731
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(take)
        while (item := coming.result()) is not end:
            coming = pool.submit(take)
            yield item  # type: ignore[misc]


def line(step: Step, estimate: Estimate, format: Format) -> str | None:
    """One line for one frame; TUM has none for a frame without a pose (`t x y z qx qy qz qw`, seconds)."""
    pose = estimate.world_from_cam
    if format == "jsonl":
        return json.dumps({**estimate_to_json(estimate), "time_s": step.time_s}, ensure_ascii=False)
    dropped = f"  ({step.dropped} dropped)" if step.dropped else ""
    if pose is None:
        told = f"{step.time_s:10.3f} s  {step.name}  not placed: {estimate.reason}{dropped}"
        return None if format == "tum" else told
    x, y, z = pose.translation
    w, qx, qy, qz = pose.quat_wxyz
    if format == "tum":
        return f"{step.time_s:.6f} {x:.6f} {y:.6f} {z:.6f} {qx:.7f} {qy:.7f} {qz:.7f} {w:.7f}"
    took = "" if estimate.seconds is None else f"  {1e3 * estimate.seconds:6.1f} ms"
    place, turn = f"{x:9.3f} {y:9.3f} {z:9.3f}", f"{w:7.4f} {qx:7.4f} {qy:7.4f} {qz:7.4f}"
    return f"{step.time_s:10.3f} s  {step.name}  {place}  {turn}{took}{dropped}"
