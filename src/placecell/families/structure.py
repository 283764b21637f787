"""The SIFT structure map: 2D-3D matching against triangulated points, after Active Search (Sattler et al. 2017)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from placecell.camera import Camera
from placecell.errors import MapError
from placecell.estimate import Estimate, Query
from placecell.features import scene_features
from placecell.images import load_query
from placecell.localizer import MapInfo, config_from_json, load_info, load_map_tensors, save_map
from placecell.log import Log
from placecell.pairs import posed, retrieved, unique
from placecell.pnp import PnP, refine_pnp, solve_pnp
from placecell.pose import Array, Pose
from placecell.scene import Scene
from placecell.sift import UNIT, Features, Sift, as_unit, match
from placecell.triangulate import Tracks, View, track_colours, track_covariance, triangulate
from placecell.vlad import Vlad

Indices = NDArray[np.int32]
Points = NDArray[np.intp]


@dataclass(frozen=True)
class Structure:
    """SIFT points triangulated from the labelled frames; a query is matched to the points its nearest pictures saw.

    Active Search's idea, our reading: 2D-to-3D matching goes through the map in the order of how promising its parts
    are and stops when enough matches agree; then 3D-to-2D matching of the points around those found completes
    them. Where Active Search orders by visual words, we order by retrieved pictures (VLAD), and the 3D-to-2D
    search is guided by the first pose instead of by a tree of coarser words.
    """

    name: ClassVar[str] = "structure"

    features: int = 2048
    """SIFT features a picture, at most."""
    contrast: float = 0.0133
    """SIFT's peak threshold; lower finds more features."""
    neighbours: int = 12
    """Pictures matched with each when the map is built: so many by pose, and so many by likeness."""
    reach: int = 160
    """The neighbours are spread over the nearest so many, so that points are seen from different places."""
    ratio: float = 0.85
    """Lowe's ratio test."""
    retrieved: int = 20
    """Pictures of the map a query is matched to, at most."""
    enough: int = 100
    """The 2D-to-3D search stops at so many agreeing matches (Active Search's N)."""
    strongest: int = 600
    """Only so many of the query's features look for the first pose; all do when that is not enough."""
    least: int = 15
    """Fewer agreeing matches are no answer."""
    max_error_px: float = 6.0
    """A match agrees when its reprojection error is below this."""
    covisible: int = 40
    """Pictures whose points the 3D-to-2D search takes in."""
    radius_px: float = 8.0
    """The 3D-to-2D search looks for a point so near to where it must fall."""
    likeness: float = 0.8
    """Cosine of descriptors a 3D-to-2D match must reach."""
    doubt: float = 16.0
    """The points' covariance is taken so many times larger than their tracks say: neighbours err alike."""

    def __post_init__(self) -> None:
        counts = (self.features, self.neighbours, self.retrieved, self.enough, self.strongest, self.covisible)
        if min(counts) < 1 or self.least < 4 or self.reach < 0:
            raise ValueError("features and pictures count from 1, least from 4, reach from 0")
        if not (0 < self.ratio <= 1 and 0 <= self.likeness < 1 and 0 < self.contrast < 1):
            raise ValueError("ratio, likeness and contrast lie between 0 and 1")
        if min(self.max_error_px, self.radius_px, self.doubt) <= 0:
            raise ValueError("max_error_px, radius_px and doubt have to be positive")

    @property
    def sift(self) -> Sift:
        """The detector of map and queries."""
        return Sift(self.features, self.contrast)

    def build(
        self, scene: Scene, *, device: str = "cpu", seed: int = 0, log: Log, work: Path | None = None
    ) -> StructureMap:
        """Triangulate the posed training frames of the scene. `device` is always the processor.

        Raises:
            MapError: fewer than three posed frames, no features, or nothing triangulates (a pure rotation, say).
        """
        frames = scene.split("train").posed
        if len(frames) < 3:
            raise MapError(
                f"scene {scene.name} has {len(frames)} posed training frames; a structure map needs 3 or more, "
                "from different places"
            )
        features = scene_features(scene, frames, self.sift, log)
        views = [
            View(frame.name, scene.camera_of(frame), frame.world_from_cam, found)
            for frame, found in zip(frames, features, strict=True)
            if frame.world_from_cam is not None
        ]
        descriptors = [found.descriptors for found in features]
        if sum(map(len, descriptors)) < 100:
            raise MapError(f"scene {scene.name}: hardly any SIFT features; are the pictures black or blurred?")
        vlad = Vlad.train(descriptors, seed=seed)
        vectors = np.stack([vlad.describe(block) for block in descriptors]).astype(np.float16)  # as they are kept
        poses = [view.world_from_cam for view in views]
        spread = {"count": self.neighbours, "reach": self.reach}
        pairs = unique(posed(poses, **spread) + retrieved(vectors.astype(np.float32), **spread))
        tracks = triangulate(views, pairs, ratio=self.ratio, log=log)
        if len(tracks.points_world) < 20:
            raise MapError(
                f"scene {scene.name}: {len(tracks.points_world)} points could be triangulated; the camera has to move "
                "between the pictures, and the poses have to be right (placecell scene --check)"
            )
        order = np.lexsort((tracks.point, tracks.picture))
        return StructureMap(
            family=self,
            info=MapInfo.of(self, scene, seed),
            points=tracks.points_world.astype(np.float32),
            spread=(self.doubt * track_covariance(tracks, views)[:, *_UPPER]).astype(np.float32),
            rgb=track_colours(tracks, lambda i: features[i].pixels, lambda i: load_query(scene, frames[i]).image),
            descriptors=_track_descriptors(tracks, descriptors),
            seen_point=tracks.point[order],
            seen_start=np.searchsorted(tracks.picture[order], np.arange(len(views) + 1)).astype(np.int32),
            vlad=vlad,
            vectors=vectors.astype(np.float32),
        )


@dataclass(frozen=True, eq=False)
class StructureMap:
    """A built structure map."""

    family: Structure
    info: MapInfo
    points: NDArray[np.float32]
    """(N, 3) world."""
    spread: NDArray[np.float32]
    """(N, 6) upper triangle of each point's covariance, world axes."""
    rgb: NDArray[np.uint8]
    """(N, 3), for the eye."""
    descriptors: NDArray[np.uint8]
    """(N, 128) mean RootSIFT of each point's track."""
    seen_point: Indices
    """(M,) points seen by picture 0, then by picture 1, …"""
    seen_start: Indices
    """(F + 1,) where each picture's part of `seen_point` begins."""
    vlad: Vlad
    vectors: NDArray[np.float32]
    """(F, D) VLAD of each picture."""

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        """Place each picture; one without enough agreeing matches is refused with their number."""
        return [self._localize(query) for query in queries]

    def _localize(self, query: Query) -> Estimate:
        start = time.perf_counter()
        found: PnP | None = None
        reason = query.defect
        if reason is None:
            features = self.family.sift.detect(query.image)
            if len(features) < self.family.least:
                reason = f"{len(features)} features found, {self.family.least} needed; the picture is dark or blurred"
            else:
                found = self._search(features, query)
        seconds = time.perf_counter() - start
        if found is None or found.world_from_cam is None or found.count < self.family.least:
            count = 0 if found is None else found.count
            reason = reason or f"{count} matches agree on a pose, {self.family.least} needed"
            return Estimate.refusal(query.name, reason, seconds)
        return Estimate(
            query.name, found.world_from_cam, found.covariance, inliers=found.count, seconds=time.perf_counter() - start
        )

    def _search(self, features: Features, query: Query) -> PnP | None:
        """2D-to-3D through the retrieved pictures, best first, until enough agree; then 3D-to-2D around them."""
        order = np.argsort(-(self.vectors @ self.vlad.describe(features.descriptors)), kind="stable")
        unit = as_unit(features.descriptors)
        points, pixels = np.zeros(0, np.intp), np.zeros((0, 2))
        known = np.zeros(len(self.points), dtype=bool)
        best: PnP | None = None
        begin, step, strongest = 0, 3, self.family.strongest
        while begin < min(self.family.retrieved, len(order)):
            fresh = self._points_of(order[begin : begin + step])
            fresh = fresh[~known[fresh]]
            known[fresh] = True
            found = match(unit[:strongest], as_unit(self.descriptors[fresh]), ratio=self.family.ratio)
            points = np.concatenate([points, fresh[found.second]])
            pixels = np.concatenate([pixels, features.pixels[found.first]])
            best = solve_pnp(
                self.points[points], pixels, query.camera, max_error_px=self.family.max_error_px, refine=False
            )
            if best.count >= self.family.enough:
                break
            begin, step, strongest = begin + step, 2 * step, len(unit)
        if best is None or best.world_from_cam is None or best.count < self.family.least:
            return best
        near = self._around(points[best.inliers], order, query.camera, best.world_from_cam)
        found_points, chosen = self._guided(near, features, unit)
        more = self._refine(found_points, features.pixels[chosen], query, best.world_from_cam)
        return more if more.count >= best.count else self._refine(points, pixels, query, best.world_from_cam)

    def _refine(self, points: Points, pixels: NDArray[np.floating], query: Query, world_from_cam: Pose) -> PnP:
        """The pose and its covariance by matches whose points carry their own."""
        return refine_pnp(
            self.points[points],
            pixels,
            query.camera,
            world_from_cam,
            point_covariance=_symmetric(self.spread[points]),
            max_error_px=self.family.max_error_px,
        )

    def _around(self, seen: Points, order: Points, camera: Camera, world_from_cam: Pose) -> Projected:
        """The points of the pictures that share most with those seen, where they fall on the query."""
        mark = np.zeros(len(self.points), dtype=np.int32)
        mark[seen] = 1
        likely = order[: 2 * self.family.covisible]
        shared = np.array([mark[self._seen_by(picture)].sum() for picture in likely])
        near = self._points_of(likely[np.argsort(-shared, kind="stable")[: self.family.covisible]])
        pixels = camera.project(world_from_cam.inv.apply(self.points[near]))
        inside = camera.contains(pixels)
        return Projected(near[inside], pixels[inside])

    def _guided(self, near: Projected, features: Features, unit: NDArray[np.float32]) -> tuple[Points, Points]:
        """3D-to-2D matches (points, features): the best within `radius_px` of where a point falls, each used once."""
        radius_px = self.family.radius_px
        distance, index = KDTree(features.pixels).query(near.pixels, k=4, distance_upper_bound=radius_px)
        which, rank = np.nonzero(np.isfinite(np.asarray(distance)))
        feature = np.asarray(index)[which, rank]
        seen = np.unique(which)
        rows = np.zeros(len(near.points), np.intp)
        rows[seen] = np.arange(len(seen))
        described = as_unit(self.descriptors[near.points[seen]])
        likeness = np.einsum("nd,nd->n", unit[feature], described[rows[which]])
        good = np.flatnonzero(likeness > self.family.likeness)
        order = good[np.argsort(-likeness[good], kind="stable")]
        which, feature = which[order], feature[order]
        first = _first_of_each(which) & _first_of_each(feature)
        return near.points[which[first]], feature[first]

    def _points_of(self, pictures: Points) -> Points:
        """Points that any of the pictures saw, sorted."""
        mark = np.zeros(len(self.points), dtype=bool)
        for picture in pictures:
            mark[self._seen_by(picture)] = True
        return np.flatnonzero(mark)

    def _seen_by(self, picture: int) -> Indices:
        return self.seen_point[self.seen_start[picture] : self.seen_start[picture + 1]]

    def save(self, folder: Path) -> None:
        """Write the map folder."""
        tensors: dict[str, NDArray[Any]] = {
            "points": self.points,
            "points.spread": self.spread,
            "points.rgb": self.rgb,
            "descriptors": self.descriptors,
            "seen.point": self.seen_point,
            "seen.start": self.seen_start,
            "pictures.vlad": self.vectors.astype(np.float16),
            **self.vlad.tensors(),
        }
        save_map(folder, self.info, tensors)

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Read a map folder."""
        info, tensors = load_info(folder), load_map_tensors(folder)
        return cls(
            family=config_from_json(Structure, info.config),
            info=info,
            points=tensors["points"],
            spread=tensors["points.spread"],
            rgb=tensors["points.rgb"],
            descriptors=tensors["descriptors"],
            seen_point=tensors["seen.point"],
            seen_start=tensors["seen.start"],
            vlad=Vlad.from_tensors(tensors),
            vectors=tensors["pictures.vlad"].astype(np.float32),
        )


_UPPER = np.triu_indices(3)


def _symmetric(upper: NDArray[np.float32]) -> Array:
    """(N, 3, 3) matrices of their upper triangles (N, 6)."""
    return upper.astype(np.float64)[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)


class Projected(NamedTuple):
    """Points of the map and the pixels they fall on."""

    points: Points
    pixels: Array


def _first_of_each(values: Points) -> NDArray[np.bool_]:
    first = np.zeros(len(values), dtype=bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first


def _track_descriptors(tracks: Tracks, descriptors: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """(N, 128) mean of the unit descriptors of each track, scaled as stored ones are."""
    total = np.zeros((len(tracks.points_world), 128), np.float32)
    for picture, block in enumerate(descriptors):
        mine = tracks.picture == picture
        np.add.at(total, tracks.point[mine], as_unit(block)[tracks.feature[mine]])
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    stored: NDArray[np.uint8] = np.minimum(total * UNIT + 0.5, 255).astype(np.uint8)
    return stored
