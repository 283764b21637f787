"""From posed pictures to a structure map: what the pictures say once, and maps of any size made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from placecell.errors import MapError
from placecell.families.structure.codes import Codes
from placecell.families.structure.config import Structure
from placecell.families.structure.covering import cells_of, covering, restricted
from placecell.families.structure.localizer import StructureMap
from placecell.families.structure.places import Places
from placecell.features import scene_features
from placecell.images import load_query
from placecell.localizer import MapInfo
from placecell.log import Log
from placecell.pairs import posed, retrieved, unique
from placecell.scene import Scene
from placecell.sift import UNIT, as_unit
from placecell.triangulate import Tracks, View, track_colours, track_covariance, triangulate
from placecell.vlad import Vlad

_WORDS = 64
_AXES_A_WORD = 4
"""256 axes for the 64 words of the default."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the training pictures say of a place; takes nearly all the time of building, and serves maps of any size."""

    views: tuple[View, ...]
    tracks: Tracks
    rgb: NDArray[np.uint8]
    """(N, 3) colours of the points."""
    vlad: Vlad
    """The vocabulary that the pairs were found with."""

    @property
    def descriptors(self) -> list[NDArray[np.uint8]]:
        """Those of each picture."""
        return [view.features.descriptors for view in self.views]


def triangulated(settings: Structure, scene: Scene, *, seed: int, log: Log) -> Evidence:
    """Points of the posed training frames; of the settings those count that are about features and neighbours.

    Raises:
        MapError: fewer than three posed frames, no features, or nothing triangulates (a pure rotation, say).
    """
    frames = scene.split("train").posed
    if len(frames) < 3:
        raise MapError(
            f"scene {scene.name} has {len(frames)} posed training frames; a structure map needs 3 or more, "
            "from different places"
        )
    features = scene_features(scene, frames, settings.sift, log)
    views = tuple(
        View(frame.name, scene.camera_of(frame), frame.world_from_cam, found)
        for frame, found in zip(frames, features, strict=True)
        if frame.world_from_cam is not None
    )
    descriptors = [found.descriptors for found in features]
    if sum(map(len, descriptors)) < 100:
        raise MapError(f"scene {scene.name}: hardly any SIFT features; are the pictures black or blurred?")
    vlad = _vocabulary(descriptors, _WORDS, seed)
    spread = {"count": settings.neighbours, "reach": settings.reach}
    pairs = unique(
        posed([view.world_from_cam for view in views], **spread) + retrieved(_vectors(vlad, descriptors), **spread)
    )
    tracks = triangulate(views, pairs, ratio=settings.ratio, log=log)
    if len(tracks.points_world) < 20:
        raise MapError(
            f"scene {scene.name}: {len(tracks.points_world)} points could be triangulated; the camera has to move "
            "between the pictures, and the poses have to be right (placecell scene --check)"
        )
    rgb = track_colours(tracks, lambda i: features[i].pixels, lambda i: load_query(scene, frames[i]).image)
    return Evidence(views, tracks, rgb, vlad)


def assembled(settings: Structure, scene: Scene, evidence: Evidence, *, seed: int) -> StructureMap:
    """The map that the settings ask for: as many points, as long codes and vectors."""
    tracks, descriptors = evidence.tracks, evidence.descriptors
    chosen = np.arange(len(tracks.points_world))
    if 0 < settings.points < len(chosen):
        chosen = covering(tracks.point, cells_of(tracks, evidence.views), settings.points)
    tracks = restricted(tracks, chosen)
    order = np.lexsort((tracks.point, tracks.picture))
    vlad, vectors = None, np.zeros((len(evidence.views), 0), np.float32)
    if not settings.at_once:
        same = settings.words == _WORDS
        vlad = evidence.vlad if same else _vocabulary(descriptors, settings.words, seed)
        vectors = _vectors(vlad, descriptors)
    return StructureMap(
        family=settings,
        info=MapInfo.of(settings, scene, seed),
        places=Places.of(tracks.points_world, settings.doubt * track_covariance(tracks, evidence.views)),
        rgb=evidence.rgb[chosen],
        codes=Codes.train(_track_descriptors(tracks, descriptors), settings.code_bytes, seed=seed),
        seen_point=tracks.point[order],
        seen_start=np.searchsorted(tracks.picture[order], np.arange(len(evidence.views) + 1)).astype(np.int32),
        vlad=vlad,
        vectors=vectors,
    )


def _vocabulary(descriptors: Sequence[NDArray[np.uint8]], words: int, seed: int) -> Vlad:
    return Vlad.train(descriptors, words=words, dimensions=_AXES_A_WORD * words, seed=seed)


def _vectors(vlad: Vlad, descriptors: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """(F, D) of each picture, rounded to what a map keeps."""
    return np.stack([vlad.describe(block) for block in descriptors]).astype(np.float16).astype(np.float32)


def _track_descriptors(tracks: Tracks, descriptors: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """(N, 128) mean of the unit descriptors of each track, scaled as stored ones are."""
    total = np.zeros((len(tracks.points_world), 128), np.float32)
    for picture, block in enumerate(descriptors):
        mine = tracks.picture == picture
        np.add.at(total, tracks.point[mine], as_unit(block)[tracks.feature[mine]])
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    stored: NDArray[np.uint8] = np.minimum(total * UNIT + 0.5, 255).astype(np.uint8)
    return stored
