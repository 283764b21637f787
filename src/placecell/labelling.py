"""From a source to a scene folder: labels read or made by structure from motion, metres, test frames held out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from placecell import atomic
from placecell.align import MetricFit, align_scene, metric_from_depth, metric_from_distance, metric_from_gps
from placecell.errors import FormatError, PlacecellError, SceneError
from placecell.images import load_query, read_exif
from placecell.localizer import versions
from placecell.log import Log
from placecell.points import PointCloud
from placecell.scene import Frame, Scene, read_json
from placecell.sfm import PHOTOS, Picture, Sfm, Stages, reconstruct
from placecell.sources import (
    Source,
    hold_out,
    identity,
    photo_pictures,
    read_dataset,
    scene_pictures,
    thin,
    video_pictures,
)

_DEPTH_PICTURES = 40


@dataclass(frozen=True)
class Wish:
    """What is wanted of a scene. Frozen."""

    name: str | None = None
    labels: str | None = None
    """Which labels of a data set that has several."""
    relabel: bool = False
    """Make labels for a data set by structure from motion instead of reading its own."""
    every: int | None = None
    """Only each so many-th frame or photo; videos are otherwise thinned by what moves."""
    frames: int = 300
    """Frames chosen from videos, at most."""
    focal_px: float | None = None
    global_mapper: bool = False
    metric_from: str | None = None
    """`gps`, `depth`, or `FRAME,FRAME,METRES`."""
    holdout: float | None = None
    images: Literal["link", "copy"] = "link"
    seed: int = 0
    threads: int = 2


@dataclass(frozen=True)
class Made:
    """A scene on disk, and what it took."""

    scene: Scene
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage."""


def make_scene(source: Source, out: Path, wish: Wish, log: Log, *, overwrite: bool = False) -> Made:
    """Write the scene folder `out`; a run that was killed goes on from the hidden folder that it left beside it.

    Raises:
        SceneError: the source makes no scene; the text says why.
        PlacecellError: `out` exists or cannot be written (found out before the long work), or the disk is full.
    """
    _check(source, wish)
    atomic.require_new(out, replace=overwrite)
    stages = Stages()
    if source.kind == "dataset" and not wish.relabel:
        with stages.timed("reading"):
            scene = _thinned(read_dataset(source, **_options(wish)), wish)
        return _saved(scene, source, out, wish, overwrite, stages)
    before = None
    if source.kind == "dataset":
        before = _thinned(read_dataset(source, **_options(wish)), wish)
    files = source.files if before is None else tuple(before.image_path(frame) for frame in before.frames)
    with _workspace(out, identity(files, _settings(source, wish)), log) as workspace:
        with stages.timed("pictures"):
            pictures = _pictures(source, before, workspace, wish, log)
        scene = reconstruct(pictures, source.name, _sfm(source, wish), workspace, log, stages)
        if before is not None:
            scene = _relabelled(before, scene)
        images: Literal["link", "copy"] = "copy" if source.kind == "videos" else wish.images
        return _saved(scene, source, out, replace(wish, images=images), overwrite, stages)


def _check(source: Source, wish: Wish) -> None:
    """Refuse what cannot be before anything long is done."""
    if wish.labels is not None and source.kind != "dataset":
        raise SceneError(f"{source.path}: {source.kind} have no labels to choose from; drop --labels")
    if wish.relabel and source.kind != "dataset":
        raise SceneError(f"{source.path}: {source.kind} have no labels to replace; drop --relabel")
    if (wish.every is not None and wish.every < 1) or wish.frames < 1:
        raise SceneError("--every and --frames count frames; give 1 or more")
    if wish.focal_px is not None and not 0 < wish.focal_px < 1e6:
        raise SceneError(f"--focal-px {wish.focal_px:g} is no focal length in pixels; 1.2 times the width is usual")
    if wish.holdout is not None and not 0 < wish.holdout < 1:
        raise SceneError(f"--holdout {wish.holdout:g}: the share of test frames lies between 0 and 1, as in 0.2")
    if wish.metric_from not in (None, "gps", "depth"):
        _distance(wish.metric_from)
    if wish.metric_from == "gps" and source.kind == "videos":
        raise SceneError("frames of videos hold no GPS; measure the distance of two frames: --metric-from A,B,METRES")


def _options(wish: Wish) -> dict[str, Any]:
    return {} if wish.labels is None else {"labels": wish.labels}


def _thinned(scene: Scene, wish: Wish) -> Scene:
    return scene if wish.every is None else thin(scene, wish.every)


def _sfm(source: Source, wish: Wish) -> Sfm:
    settings = PHOTOS if source.kind == "photos" else Sfm()
    return replace(
        settings,
        global_mapper=wish.global_mapper,
        refine_focal=wish.focal_px is None,
        seed=wish.seed,
        threads=wish.threads,
    )


def _settings(source: Source, wish: Wish) -> dict[str, Any]:
    """What shapes the pictures and the model; the rest may change between two runs."""
    shaping = {"every": wish.every, "frames": wish.frames, "focal_px": wish.focal_px, "format": source.format}
    return {**shaping, "sfm": repr(_sfm(source, replace(wish, threads=1))), "versions": versions()}


@contextmanager
def _workspace(out: Path, wanted: dict[str, Any], log: Log) -> Iterator[Path]:
    """The hidden folder beside `out` for what is long to make; removed when the block ends well."""
    folder = out.absolute().with_name(f".{out.absolute().name}.work")
    note = folder / "source.json"
    if folder.exists() and not _is_of(note, wanted):
        shutil.rmtree(folder)
    elif folder.exists():
        log.say(f"going on with what an earlier run left in {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlacecellError(f"{folder} cannot be made ({error.strerror}); choose a folder you own") from error
    atomic.write_text(note, json.dumps(wanted, indent=1) + "\n")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _is_of(note: Path, wanted: dict[str, Any]) -> bool:
    try:
        return bool(read_json(note) == wanted)
    except FormatError:
        return False


def _pictures(source: Source, before: Scene | None, workspace: Path, wish: Wish, log: Log) -> list[Picture]:
    if before is not None:
        return scene_pictures(before, wish.focal_px)
    if source.kind == "videos":
        folder = workspace / "frames"
        return video_pictures(source, folder, every=wish.every, count=wish.frames, focal_px=wish.focal_px, log=log)
    return photo_pictures(source, every=wish.every or 1, focal_px=wish.focal_px)


def _relabelled(before: Scene, found: Scene) -> Scene:
    """The frames of a data set with the poses and cameras of `found`; None where it could not tell."""
    place = {frame.name: index for index, frame in enumerate(before.frames)}
    by_name = {frame.name: frame for frame in found.frames}
    spare = next(iter(found.cameras))
    frames = tuple(
        replace(
            frame,
            camera=by_name[frame.name].camera if frame.name in by_name else spare,
            world_from_cam=by_name[frame.name].world_from_cam if frame.name in by_name else None,
        )
        for frame in before.frames
    )
    points = found.points
    if points is not None:
        index = np.array([place[frame.name] for frame in found.frames], np.int32)
        points = replace(points, seen_frame=index[points.seen_frame])
    return replace(
        before,
        labels="own-sfm",
        metric=False,
        frames=frames,
        cameras=found.cameras,
        points=points,
        notes=(*found.notes, f"the {before.labels} labels of the data set were not used"),
    )


def _saved(scene: Scene, source: Source, out: Path, wish: Wish, overwrite: bool, stages: Stages) -> Made:
    """Metres and test frames, then the folder."""
    with stages.timed("writing"):
        told = scene.name if source.kind == "dataset" and not wish.relabel else source.name
        scene = replace(scene, name=wish.name or told)
        fit = _metric_fit(scene, wish)
        if fit is not None:
            scene = align_scene(scene, fit.metric_from_world, metric=True, note=fit.note)
        elif not scene.metric:
            scene = replace(scene, notes=(*scene.notes, "no metric scale: lengths are in an arbitrary unit"))
        if wish.holdout is not None:
            scene = hold_out(scene, wish.holdout)
        return Made(scene.save(out, images=wish.images, overwrite=overwrite), stages.seconds)


def _metric_fit(scene: Scene, wish: Wish) -> MetricFit | None:
    how = wish.metric_from
    if how is None and wish.relabel and scene.depth_sensor is not None:
        how = "depth"
    if how is None:
        return None
    if how == "gps":
        return _from_gps(scene, wish.seed)
    if how == "depth":
        return _from_depth(scene)
    first, second, metres = _distance(how)
    return metric_from_distance(scene, first, second, metres)


def _distance(text: str | None) -> tuple[str, str, float]:
    first, comma, rest = (text or "").partition(",")
    second, again, metres = rest.rpartition(",")
    try:
        if comma and again:
            return first.strip(), second.strip(), float(metres)
    except ValueError:
        pass
    raise SceneError(
        f"--metric-from {text}: give gps, depth, or two frames and the metres between them: a.jpg,b.jpg,1.5"
    )


def _from_gps(scene: Scene, seed: int) -> MetricFit:
    places = [read_exif(scene.image_path(frame)).gps for frame in scene.posed]
    rows = [
        (np.nan,) * 3
        if gps is None
        else (gps.latitude_deg, gps.longitude_deg, np.nan if gps.altitude_m is None else gps.altitude_m)
        for gps in places
    ]
    lat_deg, lon_deg, alt_m = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return metric_from_gps(_centres(scene.posed), lat_deg, lon_deg, alt_m, seed=seed)


def _centres(frames: Sequence[Frame]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array([frame.world_from_cam.translation for frame in frames if frame.world_from_cam is not None])


def _from_depth(scene: Scene) -> MetricFit:
    """From the depth at the pixels where points were seen, in pictures spread over the scene."""
    points = scene.points
    if scene.depth_sensor is None or points is None or len(points.seen_point) == 0:
        raise SceneError(f"scene {scene.name}: no depth or no points to compare it with; use gps or a distance")
    measured = [i for i, f in enumerate(scene.frames) if f.depth is not None and f.world_from_cam is not None]
    readings = [_readings(scene, points, i) for i in measured[:: max(1, len(measured) // _DEPTH_PICTURES)]]
    if not readings:
        raise SceneError(f"scene {scene.name}: no frame with a pose has depth; use gps or a distance")
    depth_m, depth_scene = np.concatenate(readings, axis=1)
    return metric_from_depth(depth_m, depth_scene)


def _readings(scene: Scene, points: PointCloud, index: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """(2, N): metres that the depth camera read at the points seen in a frame, and their z in the scene's unit."""
    frame = scene.frames[index]
    depth_m, pose = load_query(scene, frame, depth=True).depth_m, frame.world_from_cam
    if depth_m is None or pose is None:
        return np.zeros((2, 0))
    seen = points.seen_frame == index
    z = pose.inv.apply(points.points_world[points.seen_point[seen]])[:, 2]
    column, row = points.seen_px[seen].astype(np.intp).T
    height, width = depth_m.shape
    return np.stack([depth_m[row.clip(0, height - 1), column.clip(0, width - 1)].astype(np.float64), z])
