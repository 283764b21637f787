"""placecell explain MAP SCENE|PICTURES OUT"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from placecell import atomic, catalog
from placecell.cli.localize import frames_asked, photos_at, warn_of
from placecell.cli.terminal import Terminal, finish, parse
from placecell.errors import ImageError, MapError, PlacecellError
from placecell.estimate import Query
from placecell.images import write_jpeg
from placecell.localizer import Localizer, PoseFeatures, Salient, camera_of_map, load_info, wants_depth
from placecell.log import Log
from placecell.report.glow import glow
from placecell.run import Asked
from placecell.scene import Frame, Scene
from placecell.spacing import evenly

_OF_FRAMES = ("name", "sequence", "split", "x", "y", "z", "qw", "qx", "qy", "qz")
_OF_PHOTOS = ("name", "folder")
"""Two columns at least: the projector takes the first row of a single one for data."""


def main(words: Sequence[str]) -> None:
    """Show what a map sees in pictures."""
    parse("explain", explain, words)


def explain(
    map: Annotated[Path, tyro.conf.Positional],
    pictures: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    split: Literal["train", "test", "all"] = "test",
    limit: int = 100,
    focal_px: float | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    overwrite: bool = False,
) -> None:
    """Show what a map sees in pictures: which pixels place them, and the vectors it knows them by.

    Writes what the map can tell: saliency/ holds each picture with the pixels glowing that its pose depends on,
    features.tsv a vector a picture and metadata.tsv what is known of it, as the TensorBoard projector and programs for
    t-SNE and UMAP read them.

    Args:
        map: Map folder, of a family that can tell: regression or retrieval.
        pictures: A picture, a folder of them, or a scene folder.
        out: Folder to make.
        split: Which frames of a scene are shown.
        limit: How many pictures at most, spread evenly over those there are.
        focal_px: Focal length of pictures without a scene, as for localize.
        device: cpu, or cuda for families with networks.
        overwrite: Replace the folder if it exists.
    """
    if limit < 1 or (focal_px is not None and not 0 < focal_px < 1e6):
        raise PlacecellError("--limit counts pictures from 1, --focal-px is a length in pixels")
    atomic.require_new(out, replace=overwrite)
    info, localizer, log = load_info(map), catalog.load_map(map, device=device, calibrated=False), Terminal()
    if not isinstance(localizer, (Salient, PoseFeatures)):
        raise MapError(f"{map}: {info.family} maps do not tell what they see; name a regression or retrieval map")
    scene = Scene.load(pictures) if (pictures / "scene.json").is_file() else None
    guessed: list[str] = []
    if scene is None:
        asked = photos_at(pictures, camera_of_map(info), focal_px, guessed)
    else:
        asked = frames_asked(scene, split, focal_px, depth=wants_depth(localizer))
    with atomic.new_folder(out, replace=overwrite) as aside:
        made = _tell(localizer, evenly(asked, limit), scene, aside, log)
    warn_of([], guessed, log)
    finish(f"{out}: {made}", ["ls", out])


def _tell(localizer: Localizer, asked: Sequence[Asked], scene: Scene | None, folder: Path, log: Log) -> str:
    """Write all that the map can tell of the pictures, and say what that is.

    Raises:
        MapError: it is nothing.
    """
    overlays, features = 0, dict[str, NDArray[np.float32]]()
    for query in _usable(log.track(asked, "explaining", len(asked)), log):
        try:
            if isinstance(localizer, Salient):
                shown = glow(query.image, localizer.saliency(query))
                write_jpeg(folder / "saliency" / _jpeg_name(query.name), shown, quality=90)
                overlays += 1
        except MapError as error:
            log.warn(str(error))
            continue
        if isinstance(localizer, PoseFeatures):
            (row,) = localizer.pose_features([query])
            if row.size and np.isfinite(row).all():
                features[query.name] = row
    if not overlays and not features:
        raise MapError(f"the map can do nothing with any of the {len(asked)} pictures; are they of the same place?")
    if features:
        _write_features(folder, features, {} if scene is None else {frame.name: frame for frame in scene.frames})
    told = [f"{overlays} saliency maps"] * bool(overlays) + [f"{len(features)} feature vectors"] * bool(features)
    return " and ".join(told)


def _usable(asked: Iterable[Asked], log: Log) -> Iterator[Query]:
    """The pictures that can be read and shown; of the others the user is told."""
    for item in asked:
        try:
            query = item.load()
        except ImageError as error:
            log.warn(str(error))
            continue
        if query.defect is None:
            yield query
        else:
            log.warn(f"{query.name}: {query.defect}")


def _jpeg_name(name: str) -> str:
    return name if name.lower().endswith((".jpg", ".jpeg")) else f"{name}.jpg"


def _write_features(folder: Path, features: Mapping[str, NDArray[np.float32]], frames: Mapping[str, Frame]) -> None:
    """features.tsv, numbers without a head, and metadata.tsv, a row for each of its rows below a head."""
    rows = ["\t".join(f"{value:.6g}" for value in row) for row in features.values()]
    (folder / "features.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    facts = [_of_frame(frames[name]) if frames else _of_photo(name) for name in features]
    table = [_OF_FRAMES if frames else _OF_PHOTOS, *facts]
    text = "".join("\t".join(_cell(value) for value in row) + "\n" for row in table)
    (folder / "metadata.tsv").write_bytes(text.encode("utf-8", "backslashreplace"))


def _of_frame(frame: Frame) -> list[object]:
    pose = frame.world_from_cam
    known = [""] * 7 if pose is None else [f"{value:.6g}" for value in (*pose.translation, *pose.quat_wxyz)]
    return [frame.name, frame.sequence, frame.split, *known]


def _of_photo(name: str) -> list[object]:
    return [name, Path(name).parent.as_posix()]


def _cell(value: object) -> str:
    return " ".join(str(value).split())  # a name may hold a tab or a line end
