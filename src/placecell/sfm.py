"""Pictures to a scene by structure from motion (pycolmap): the automatic labels."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.colmap import from_colmap, to_pose, write_database
from placecell.errors import SceneError
from placecell.images import read_image, resize_image
from placecell.lenses import Picture as Picture
from placecell.lenses import lenses_of
from placecell.log import Log
from placecell.mapping import How, Mapper, reconstructions
from placecell.pairs import Pair, exhaustive, retrieved, sequential, unique
from placecell.parallel import in_parallel
from placecell.points import PointCloud
from placecell.scene import Frame, Scene
from placecell.sift import Features, Sift, load_features, save_features
from placecell.triangulate import Tracks, track_colours, tracks_of
from placecell.two_view import Verification, guess_focal_lengths, match_into, turns_only
from placecell.vlad import Vlad

Order = Literal["video", "photos"]

_LEAST_FEATURES = 50
_DOUBT = "joined by lowered demands (points that two pictures see, small angles): look at it before you trust it"


@dataclass(frozen=True)
class Sfm:
    """Settings of structure from motion. Frozen; the defaults are for video, `PHOTOS` for photos."""

    order: Order = "video"
    """`video` when neighbours in the list are neighbours in time."""
    features: int = 1400
    """SIFT features a picture, at most."""
    contrast: float = 0.0133
    """SIFT's peak threshold."""
    max_side_px: int = 1600
    """Features are found in the picture shrunk to this, and scaled back to its pixels."""
    verification: Verification = field(default_factory=Verification)
    overlap: int = 8
    """Video: each frame is matched with so many after it, and with those 2, 4, 8 … 2^(overlap - 1) after it."""
    retrieved: int = 5
    """Each frame is also matched with so many that look like it (VLAD); for photos, beyond `exhaustive_to`."""
    exhaustive_to: int = 80
    """Up to so many photos, every pair is matched."""
    global_mapper: bool = False
    """All poses at once (pycolmap's global mapper, GLOMAP) instead of picture by picture."""
    refine_focal: bool = True
    """Whether focal lengths are refined, or kept as given."""
    least_share: float = 0.5
    """A scene must hold at least this share of the pictures; less is an error with an account of what joined."""
    seed: int = 0
    threads: int = 2


PHOTOS = Sfm(order="photos", features=4000, verification=Verification(max_error=0.004), retrieved=40)


class Stages:
    """Seconds of wall time by stage, in the order they ran."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def reconstruct(
    pictures: Sequence[Picture], name: str, settings: Sfm, workspace: Path, log: Log, stages: Stages | None = None
) -> Scene:
    """Poses, intrinsics and points of pictures nobody has labelled; the scale is arbitrary.

    The frames are those of the largest model, in the order of the pictures; `Scene.notes` tell what was left out.

    Args:
        workspace: folder for features, matches and models; a second call with the same input goes on from there.

    Raises:
        SceneError: too few pictures, nothing to see on them, or no model joins enough of them; the text accounts for
            the pieces.
        ImageError: a picture cannot be read.
        PlacecellError: the workspace cannot be written, or the disk is full.
    """
    stages = stages or Stages()
    if len(pictures) < 3:
        count = "1 picture is" if len(pictures) == 1 else f"{len(pictures)} pictures are"
        raise SceneError(f"{name}: {count} too few for structure from motion; give 3 or more, better 30")
    with stages.timed("features"):
        features = _detect(pictures, settings, workspace / "features", log)
    database = workspace / "database.db"
    lenses = lenses_of(pictures)
    with stages.timed("matching"), _plainly(database):
        if not database.is_file():
            aside = database.with_suffix(".partial")
            aside.unlink(missing_ok=True)
            write_database(aside, [_key(i) for i in range(len(pictures))], features, lenses.cameras, lenses.of_picture)
            aside.rename(database)
        match_into(
            database,
            features,
            lenses.sizes_px,
            _pairs(features, settings),
            settings.verification,
            log,
            settings.threads,
        )
    with stages.timed("mapping"), _plainly(database):
        guess_focal_lengths(database, lenses.of_picture, lenses.cameras)
        models, way = _models(pictures, features, lenses.sizes_px, database, settings, log)
    _account(models, pictures, settings, log)
    with stages.timed("points"):
        scene = _scene(models, pictures, features, name)
    return replace(scene, notes=(*scene.notes, _DOUBT)) if way == "patient" else scene


@contextmanager
def _plainly(database: Path) -> Iterator[None]:
    """What pycolmap and SQLite raise (a full disk, a damaged file), in one line."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        if isinstance(error, SceneError):
            raise
        why = " ".join(str(error).split())[-200:]
        raise SceneError(
            f"{database.parent}: structure from motion broke off ({why}); free some space, or remove that folder"
        ) from error


def _detect(pictures: Sequence[Picture], settings: Sfm, folder: Path, log: Log) -> list[Features]:
    """Features of every picture, from the workspace where they are already there."""
    sift = Sift(settings.features, settings.contrast)

    def features_of(item: tuple[int, Picture]) -> Features:
        index, picture = item
        path = folder / f"{index:06d}.safetensors"
        if path.is_file():
            return load_features(path)
        found = _features(read_image(picture.path), sift, settings.max_side_px)
        save_features(found, path)
        return found

    items = list(enumerate(pictures))
    found = list(log.track(in_parallel(features_of, items, settings.threads), "detecting features", len(items)))
    empty = [index for index, one in enumerate(found) if len(one) < _LEAST_FEATURES]
    if len(pictures) - len(empty) < 3:
        raise SceneError(
            f"nothing to see on {len(empty)} of {len(pictures)} pictures ({_names(empty, pictures)}): black, blank or "
            "out of focus; take sharp pictures of a place with texture, in light"
        )
    return found


def _features(image: NDArray[np.uint8], sift: Sift, max_side_px: int) -> Features:
    height, width = image.shape[:2]
    small, camera = resize_image(image, Camera.from_focal(width, height, width), max_side_px=max_side_px)
    found = sift.detect(small)
    scale = np.array([width / camera.width, height / camera.height], np.float32)
    return Features(found.pixels * scale, found.scales_px * scale.mean(), found.angles_rad, found.descriptors)


def _pairs(features: Sequence[Features], settings: Sfm) -> list[Pair]:
    count = len(features)
    if settings.order == "photos" and count <= settings.exhaustive_to:
        return exhaustive(count)
    vlad = Vlad.train([found.descriptors for found in features], seed=settings.seed)
    vectors = np.stack([vlad.describe(found.descriptors) for found in features])
    if settings.order == "photos":
        return retrieved(vectors, count=settings.retrieved)
    loops = retrieved(vectors, count=settings.retrieved, min_gap=2 * settings.overlap)
    return unique(sequential(count, overlap=settings.overlap) + loops)


def _key(index: int) -> str:
    """The name of picture `index` in the database."""
    return f"{index:06d}"


def _models(
    pictures: Sequence[Picture],
    features: Sequence[Features],
    sizes_px: Sequence[int],
    database: Path,
    settings: Sfm,
    log: Log,
) -> tuple[list[Any], How]:
    """The models of the first way of mapping that joins nearly all pictures, else of the way that joins most."""
    ways: tuple[How, ...] = ("at once",) if settings.global_mapper else ("stepwise", "patient")
    best: list[Any] = []
    by = ways[0]
    for way in ways:
        folder = database.parent / f"models-{way.replace(' ', '-')}"
        mapper = Mapper(way, settings.refine_focal, settings.seed, settings.threads)
        found = reconstructions(database, folder, mapper, pictures=len(pictures), log=log)
        if _largest(found) > _largest(best):
            best, by = found, way
        if _largest(best) >= 0.9 * len(pictures):
            break
        if _largest(best) < max(3, 0.2 * len(pictures)) and turns_only(
            database, features, sizes_px, settings.verification
        ):
            raise SceneError(  # lower demands would find a depth that is not there
                f"no depth can be had from these {len(pictures)} pictures: the camera only turned or stood still, or "
                "they show one flat wall; walk sideways while filming"
            )
        if way != ways[-1]:
            log.say(f"{_largest(found)} of {len(pictures)} pictures joined; trying harder")
    return best, by


def _enough(pictures: Sequence[Picture], settings: Sfm) -> float:
    return max(3, settings.least_share * len(pictures))


def _largest(models: Sequence[Any]) -> int:
    return len(_registered(models[0])) if models else 0


def _account(models: Sequence[Any], pictures: Sequence[Picture], settings: Sfm, log: Log) -> None:
    """Say what was joined; raise when the largest model is no map of the place."""
    count, joined = len(pictures), _pieces(models)
    largest = len(joined[0]) if joined else 0
    if largest == count:
        log.say(f"all {count} pictures joined in one model")
        return
    pieces = "; ".join(f"{len(group)} ({_names(group, pictures)})" for group in joined[:6]) or "none"
    left = sorted(set(range(count)) - {index for group in joined for index in group})
    account = f"pieces: {pieces}; joined to nothing: {len(left)} ({_names(left, pictures)})"
    if largest < _enough(pictures, settings):
        raise SceneError(
            f"structure from motion joined at most {largest} of {count} pictures, no map of the place; {account}. "
            "Take pictures that overlap by two thirds, a step apart and not only forward, or a slow video"
        )
    log.warn(f"{largest} of {count} pictures joined in the model that is kept; {account}")


def _pieces(models: Sequence[Any]) -> list[list[int]]:
    """The pictures of each model that holds three or more which no larger model has."""
    pieces: list[list[int]] = []
    seen: set[int] = set()
    for model in models:
        new = [index for index in _registered(model) if index not in seen]
        if len(new) >= 3:
            pieces.append(new)
            seen |= set(new)
    return pieces


def _registered(model: Any) -> list[int]:
    return sorted(int(image.image_id) - 1 for image in model.images.values() if image.has_pose)


def _names(indices: Sequence[int], pictures: Sequence[Picture]) -> str:
    shown = [pictures[index].name for index in indices[:4]]
    return ", ".join([*shown, "…"] if len(indices) > 4 else shown) or "none"


def _scene(models: Sequence[Any], pictures: Sequence[Picture], features: Sequence[Features], name: str) -> Scene:
    """The largest model as a scene, its root the root of the file system; frames left out are absent."""
    model = models[0]
    kept = _registered(model)
    frames = []
    for index in kept:
        image, picture = model.images[index + 1], pictures[index]
        path = picture.path.resolve()
        frames.append(
            Frame(
                name=picture.name,
                image=path.relative_to(path.anchor).as_posix(),
                camera=str(image.camera_id),
                world_from_cam=to_pose(image.cam_from_world()).inv,
                sequence=picture.sequence,
                time_s=picture.time_s,
            )
        )
    notes = [f"poses by structure from motion, {len(kept)} of {len(pictures)} pictures"]
    notes += [f"a separate model of {len(piece)} other pictures was left out" for piece in _pieces(models)[1:]]
    return Scene(
        name=name,
        labels="sfm",
        metric=False,
        frames=tuple(frames),
        cameras={key: from_colmap(model.cameras[int(key)]) for key in dict.fromkeys(frame.camera for frame in frames)},
        root=Path(pictures[0].path.resolve().anchor),
        points=_points(model, features, {picture: frame for frame, picture in enumerate(kept)}, pictures),
        notes=tuple(notes),
    )


def _points(
    model: Any, features: Sequence[Features], frame_of: dict[int, int], pictures: Sequence[Picture]
) -> PointCloud:
    tracks = _kept(tracks_of(model), sorted(frame_of))
    pixels = np.zeros((len(tracks.point), 2), np.float32)
    for picture in frame_of:
        mine = tracks.picture == picture
        pixels[mine] = features[picture].pixels[tracks.feature[mine]]
    frames = np.array([frame_of[picture] for picture in tracks.picture.tolist()], np.int32)
    rgb = track_colours(tracks, lambda i: features[i].pixels, lambda i: read_image(pictures[i].path))
    return PointCloud(tracks.points_world, rgb, tracks.point, frames, pixels)


def _kept(tracks: Tracks, pictures: Sequence[int]) -> Tracks:
    """The points that two of these pictures see, and what these see of them."""
    seen = np.isin(tracks.picture, pictures)
    good = np.bincount(tracks.point[seen], minlength=len(tracks.points_world)) >= 2
    seen &= good[tracks.point]
    number = (np.cumsum(good) - 1).astype(np.int32)
    return Tracks(tracks.points_world[good], number[tracks.point[seen]], tracks.picture[seen], tracks.feature[seen])
