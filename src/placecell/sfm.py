"""Pictures to a scene by structure from motion (pycolmap): the automatic labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pycolmap

from placecell.camera import Camera
from placecell.colmap import from_colmap, to_colmap, to_pose, write_database
from placecell.errors import SceneError
from placecell.exif import camera_guess
from placecell.images import read_exif, read_image
from placecell.log import Log
from placecell.pairs import Pair, exhaustive, retrieved, sequential, unique
from placecell.points import PointCloud
from placecell.scene import Frame, Scene
from placecell.sift import Features, Sift, in_parallel, load_features, save_features
from placecell.triangulate import tracks_of
from placecell.vlad import Vlad

Order = Literal["video", "photos"]


@dataclass(frozen=True)
class Picture:
    """A picture to reconstruct from."""

    name: str
    path: Path
    sequence: str = ""
    time_s: float | None = None


@dataclass(frozen=True)
class Sfm:
    """Settings of structure from motion. Frozen."""

    features: int = 1600
    """SIFT features a picture, at most."""
    contrast: float = 0.0133
    """SIFT's peak threshold."""
    overlap: int = 8
    """Video: each frame is matched with so many after it, and with those 2, 4, 8 … 2^overlap after it."""
    retrieved: int = 5
    """Each frame is also matched with so many that look like it (VLAD); for photos, beyond `exhaustive_to`."""
    exhaustive_to: int = 120
    """Up to so many photos, every pair is matched."""
    global_mapper: bool = False
    """All poses at once (pycolmap's global mapper, GLOMAP) instead of picture by picture."""
    least_share: float = 0.5
    """A scene must hold at least this share of the pictures; less is an error with an account of what joined."""


def reconstruct(
    pictures: Sequence[Picture],
    *,
    name: str,
    order: Order,
    settings: Sfm,
    workspace: Path,
    camera: Camera | None = None,
    seed: int = 0,
    log: Log,
) -> Scene:
    """Poses, intrinsics and points of pictures nobody has labelled; the scale is arbitrary.

    Args:
        order: `video` when neighbours in the list are neighbours in time.
        workspace: folder for features, matches and models; a second call with the same input goes on from there.
        camera: known intrinsics of all pictures, kept fixed; otherwise guessed from EXIF and refined.

    Raises:
        SceneError: too few pictures, or no single model joins enough of them; the text accounts for the pieces.
    """
    if len(pictures) < 3:
        raise SceneError(f"{len(pictures)} pictures are too few for structure from motion; give 3 or more, better 30")
    features = _detect(pictures, settings, workspace / "features", log)
    lenses = _cameras(pictures, order, camera)
    pairs = _pairs(features, order, settings, seed)
    database = workspace / "database.db"
    if not database.is_file():
        aside = workspace / "database.partial"
        aside.unlink(missing_ok=True)
        write_database(aside, [_key(i) for i in range(len(pictures))], features, lenses.theirs, lenses.index)
        aside.rename(database)
    with quiet():
        _match(database, pairs, seed, log)
        models = _map(database, workspace, settings, camera is not None, seed, log)
    _account(models, pictures, settings, log)
    return _scene(models, pictures, features, name)


@contextmanager
def quiet() -> Iterator[None]:
    """pycolmap's own log lines off, below errors; its setting is put back."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = 3
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


@dataclass(frozen=True, eq=False)
class _Cameras:
    theirs: list[Any]
    index: list[int]


def _detect(pictures: Sequence[Picture], settings: Sfm, folder: Path, log: Log) -> list[Features]:
    """Features of every picture, from the workspace where they are already there."""
    sift = Sift(settings.features, settings.contrast)

    def features_of(item: tuple[int, Picture]) -> Features:
        index, picture = item
        path = folder / f"{index:06d}.safetensors"
        if path.is_file():
            return load_features(path)
        found = sift.detect(read_image(picture.path))
        save_features(found, path)
        return found

    folder.mkdir(parents=True, exist_ok=True)
    items = list(enumerate(pictures))
    return list(log.track(in_parallel(features_of, items, 2), "detecting features", len(items)))


def _cameras(pictures: Sequence[Picture], order: Order, known: Camera | None) -> _Cameras:
    """One camera for a video; for photos one for each maker, model, focal length and size, or each its own."""
    if known is not None:
        theirs = to_colmap(known, 1)
        theirs.has_prior_focal_length = True
        return _Cameras([theirs], [0] * len(pictures))
    keys: dict[object, int] = {}
    theirs_list: list[Any] = []
    index = []
    for number, picture in enumerate(pictures):
        exif = read_exif(picture.path)
        guess, focal_known = camera_guess(exif)
        key: object = (exif.device, guess) if focal_known else number
        if order == "video":
            key = "video"
        if key not in keys:
            keys[key] = len(theirs_list)
            theirs = pycolmap.Camera(
                camera_id=len(theirs_list) + 1,
                model="SIMPLE_RADIAL",
                width=guess.width,
                height=guess.height,
                params=[guess.fx, guess.width / 2, guess.height / 2, 0.0],
            )
            theirs.has_prior_focal_length = focal_known
            theirs_list.append(theirs)
        index.append(keys[key])
    return _Cameras(theirs_list, index)


def _pairs(features: Sequence[Features], order: Order, settings: Sfm, seed: int) -> list[Pair]:
    count = len(features)
    if order == "photos" and count <= settings.exhaustive_to:
        return exhaustive(count)
    vlad = Vlad.train([found.descriptors for found in features], seed=seed)
    vectors = np.stack([vlad.describe(found.descriptors) for found in features])
    if order == "photos":
        return retrieved(vectors, count=max(30, settings.retrieved))
    loops = retrieved(vectors, count=settings.retrieved, min_gap=2 * settings.overlap)
    return unique(sequential(count, overlap=settings.overlap) + loops)


def _key(index: int) -> str:
    """The name of picture `index` in the database: without the spaces that pair lists cannot hold."""
    return f"{index:06d}"


def _match(database: Path, pairs: Sequence[Pair], seed: int, log: Log) -> None:
    """Match and verify the pairs; those already in the database are passed over by pycolmap."""
    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu = False
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    pairing = pycolmap.ImportedPairingOptions()
    block = 200
    listing = database.with_name("pairs.txt")
    for begin in log.track(range(0, len(pairs), block), f"matching {len(pairs)} pairs", -(-len(pairs) // block)):
        lines = (f"{_key(i)} {_key(j)}\n" for i, j in pairs[begin : begin + block])
        listing.write_text("".join(lines), encoding="utf-8")
        pairing.match_list_path = listing
        pycolmap.match_image_pairs(database, matching, pairing, verification, pycolmap.Device.cpu)


def _map(database: Path, workspace: Path, settings: Sfm, fixed: bool, seed: int, log: Log) -> list[Any]:
    """The reconstructions, largest first."""
    folder = workspace / "models"
    folder.mkdir(exist_ok=True)
    if settings.global_mapper:
        log.say("mapping all pictures at once")
        options = pycolmap.GlobalPipelineOptions()
        options.random_seed = seed
        models = pycolmap.global_mapping(database, workspace, folder, options)
    else:
        log.say("mapping picture by picture")
        models = pycolmap.incremental_mapping(database, workspace, folder, _incremental(fixed, seed))
    return sorted(models.values(), key=lambda model: -model.num_reg_images())


def _incremental(fixed: bool, seed: int) -> Any:
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed = seed
    options.extract_colors = False
    options.min_model_size = 3
    options.ba_refine_focal_length = options.ba_refine_extra_params = not fixed
    # Fewer global bundle adjustments than the default: every 1.4-fold growth instead of 1.1; see docs/benchmarks.md.
    options.ba_global_frames_ratio = options.ba_global_points_ratio = 1.4
    options.ba_global_max_refinements = 2
    return options


def _account(models: Sequence[Any], pictures: Sequence[Picture], settings: Sfm, log: Log) -> None:
    """Say what was joined; raise when the largest model is no map of the place."""
    count = len(pictures)
    joined = [_registered(model) for model in models]
    largest = len(joined[0]) if joined else 0
    if largest == count:
        log.say(f"all {count} pictures joined in one model")
        return
    pieces = "; ".join(f"{len(group)} ({_names(group, pictures)})" for group in joined[:6]) or "none"
    left = sorted(set(range(count)) - {index for group in joined for index in group})
    account = f"pieces: {pieces}; joined to nothing: {len(left)} ({_names(left, pictures)})"
    if largest < max(3, settings.least_share * count):
        raise SceneError(
            f"structure from motion joined at most {largest} of {count} pictures, no map of the place; {account}. "
            "Take pictures that overlap by two thirds, a step apart and not only forward, or a slow video"
        )
    log.warn(f"{largest} of {count} pictures joined in the model that is kept; {account}")


def _registered(model: Any) -> list[int]:
    return sorted(int(image.image_id) - 1 for image in model.images.values() if image.has_pose)


def _names(indices: Sequence[int], pictures: Sequence[Picture]) -> str:
    shown = [pictures[index].name for index in indices[:4]]
    return ", ".join([*shown, "…"] if len(indices) > 4 else shown) or "none"


def _scene(models: Sequence[Any], pictures: Sequence[Picture], features: Sequence[Features], name: str) -> Scene:
    """The largest model as a scene, its root the root of the file system; frames left out are absent."""
    model = models[0]
    kept = _registered(model)
    cameras = {str(key): from_colmap(camera) for key, camera in model.cameras.items()}
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
    notes += [f"a separate model of {len(_registered(other))} pictures was left out" for other in models[1:]]
    return Scene(
        name=name,
        labels="sfm",
        metric=False,
        frames=tuple(frames),
        cameras={key: cameras[key] for key in sorted({frame.camera for frame in frames}, key=int)},
        root=Path(pictures[0].path.resolve().anchor),
        points=_points(model, features, {picture: frame for frame, picture in enumerate(kept)}, pictures),
        notes=tuple(notes),
    )


def _points(
    model: Any, features: Sequence[Features], frame_of: dict[int, int], pictures: Sequence[Picture]
) -> PointCloud:
    tracks = tracks_of(model)
    pixels = np.zeros((len(tracks.point), 2), np.float32)
    for picture in frame_of:
        mine = tracks.picture == picture
        pixels[mine] = features[picture].pixels[tracks.feature[mine]]
    frames = np.array([frame_of[picture] for picture in tracks.picture.tolist()], np.int32)
    rgb = _colours(tracks.point, tracks.picture, pixels, len(tracks.points_world), pictures)
    return PointCloud(tracks.points_world, rgb, tracks.point, frames, pixels)


def _colours(point: Any, picture: Any, pixels: Any, count: int, pictures: Sequence[Picture]) -> Any:
    """(N, 3) mean colour of each point over the pictures that saw it."""
    total, seen = np.zeros((count, 3)), np.bincount(point, minlength=count)[:, None]
    for index in np.unique(picture):
        image = read_image(pictures[index].path)
        mine = picture == index
        column, row = pixels[mine].astype(np.intp).T
        np.add.at(total, point[mine], image[row.clip(0, len(image) - 1), column.clip(0, image.shape[1] - 1)])
    return (total / np.maximum(seen, 1)).astype(np.uint8)
