"""A structure map that answers: SIFT features matched to points through the pictures most like the query."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from placecell.camera import Camera
from placecell.estimate import Estimate, Query
from placecell.families.structure.codes import Codes
from placecell.families.structure.config import Structure
from placecell.families.structure.near import Projected, farthest_px, projected
from placecell.families.structure.places import Places, gaps, lists
from placecell.localizer import MapInfo, camera_of_map, config_from_json, load_info, load_map_tensors, save_map
from placecell.pnp import PnP, halves, poses_of_halves, refine_pnp, scattered, solve_pnp
from placecell.points import PointCloud
from placecell.pose import Array, Pose
from placecell.resample import shrunk
from placecell.sift import Features, as_unit, match
from placecell.vlad import Vlad

Indices = NDArray[np.int32]
Points = NDArray[np.intp]

_FIRST, _THEN = 200, 1000
"""Features that correct a prior, and that then make the pose; of fewer than a thousand it is worse by a third."""
_PICTURES = 30
"""Those most like the query, whose points are looked for near a prior."""
_ONCE = 1.25
"""A prior whose points fall within so many times `radius_px` needs no correction first."""
_FEWEST = 8
"""Points about a feature that are compared with it, at least."""


class _Matched(NamedTuple):
    """Points of the map and where they are on the query."""

    points: Points
    """(N,)."""
    pixels: NDArray[np.floating]
    """(N, 2)."""


@dataclass(frozen=True, eq=False)
class StructureMap:
    """A built structure map."""

    family: Structure
    info: MapInfo
    places: Places
    rgb: NDArray[np.uint8]
    """(N, 3), for the eye."""
    codes: Codes
    """Of the mean RootSIFT of each point's track."""
    seen_point: Indices
    """(M,) points seen by picture 0, then by picture 1, …"""
    seen_start: Indices
    """(F + 1,) where each picture's part of `seen_point` begins."""
    vlad: Vlad | None
    """None where the whole map is matched at once."""
    vectors: NDArray[np.float32]
    """(F, D) VLAD of each picture; D = 0 without."""

    @property
    def points(self) -> Array:
        """(N, 3) world."""
        return self.places.points_world

    @property
    def sight(self) -> Camera:
        """The camera beyond whose resolution nothing of a picture is used."""
        usual = camera_of_map(self.info)
        return usual.resized(*(max(1, round(self.family.resolution * side)) for side in (usual.width, usual.height)))

    def cloud(self) -> PointCloud:
        """The points and their colours."""
        return PointCloud.bare(self.points, self.rgb)

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        """Place each picture; one without enough agreeing matches is refused with their number."""
        return [self._localize(query) for query in queries]

    def localize_near(self, queries: Sequence[Query], priors: Sequence[Estimate]) -> list[Estimate]:
        """Place each picture from about where a prior has it, with a fraction of the matching.

        What the prior can see of the map is looked for where it should fall, within four of its standard deviations.
        Where fewer than `enough` matches agree, or there is no prior, everything is searched as in `localize`.
        """
        return [self._localize(query, prior) for query, prior in zip(queries, priors, strict=True)]

    def _localize(self, query: Query, prior: Estimate | None = None) -> Estimate:
        start = time.perf_counter()
        found, needed = None, self.family.least
        reason = query.defect
        if reason is None:
            image, camera = shrunk(query.image, query.camera, self.sight)
            query = replace(query, image=image, camera=camera)
            features = self.family.sift.detect(image)
            if len(features) < self.family.least:
                reason = f"{len(features)} features found, {self.family.least} needed; the picture is dark or blurred"
            else:
                found = None if prior is None else self._verified(features, query, prior)
                if found is None:
                    found, needed = self._search(features, query)
        seconds = time.perf_counter() - start
        if found is None or found.world_from_cam is None or found.count < needed:
            count = 0 if found is None else found.count
            reason = reason or f"{count} matches agree on a pose, {needed} needed"
            return Estimate.refusal(query.name, reason, seconds)
        return Estimate(
            query.name,
            found.world_from_cam,
            found.covariance,
            inliers=found.count,
            matches=len(found.inliers),
            seconds=time.perf_counter() - start,
        )

    def _search(self, features: Features, query: Query) -> tuple[PnP | None, int]:
        """2D-to-3D through the retrieved pictures, best first, until enough agree; then 3D-to-2D around them.

        Returns what was found, and how many matches have to agree for it to be an answer.
        """
        order = self._likely(features)
        unit = as_unit(features.descriptors)
        points, pixels = np.zeros(0, np.intp), np.zeros((0, 2))
        best: PnP | None = None
        for fresh, asking in self._parts(order):
            found = match(unit[asking], self.codes.vectors(fresh), ratio=self.family.ratio)
            points = np.concatenate([points, fresh[found.second]])
            pixels = np.concatenate([pixels, features.pixels[asking][found.first]])
            best = solve_pnp(
                self.points[points], pixels, query.camera, max_error_px=self.family.max_error_px, refine=False
            )
            if best.count >= self.family.enough:
                break
        needed = max(self.family.least, math.ceil(self.family.agreement * len(points)))
        if best is None or best.world_from_cam is None or best.count < needed:
            return best, needed
        near = self._around(points[best.inliers], order, query.camera, best.world_from_cam)
        found_points, chosen = self._guided(near, features, unit, self.family.radius_px)
        tried, refined = _Matched(points, pixels), _Matched(found_points, features.pixels[chosen])
        more = self._refine(refined, query, best.world_from_cam)
        if more.count < best.count:
            refined = tried
            more = self._refine(refined, query, best.world_from_cam)
        return self._doubted(more, tried, refined, query), self.family.least

    def _verified(self, features: Features, query: Query, prior: Estimate) -> PnP | None:
        """The pose near a prior on which enough matches agree; None where they do not."""
        pose, camera = prior.world_from_cam, query.camera
        if pose is None:
            return None
        features = features.strongest(_THEN)
        unit, narrow = as_unit(features.descriptors), self.family.radius_px
        order = self._likely(features)
        asked = order if self.vlad is None else order[:_PICTURES]
        near = self._visible(asked, camera, pose)
        tried = None
        wide = farthest_px(self.points[near.points], camera, pose, prior.covariance, narrow)
        if wide > _ONCE * narrow:
            points, chosen = self._guided(near, features.strongest(_FIRST), unit, wide)
            tried, max_error_px = _Matched(points, features.pixels[chosen]), self.family.max_error_px
            first = solve_pnp(self.points[points], tried.pixels, camera, max_error_px=max_error_px, refine=False)
            if first.world_from_cam is None or first.count < self.family.least:
                return None
            pose = first.world_from_cam
            near, wide = projected(near.points, self.points, camera, pose), narrow
        points, chosen = self._guided(near, features, unit, wide)
        refined = _Matched(points, features.pixels[chosen])
        found = self._refine(refined, query, pose)
        if found.world_from_cam is None or found.count < self.family.enough:
            return None
        return self._doubted(found, tried or refined, refined, query)

    def _likely(self, features: Features) -> Points:
        """The pictures of the map, those most like the query first; all alike where the map cannot tell."""
        if self.vlad is None:
            return np.arange(len(self.seen_start) - 1)
        return np.argsort(-(self.vectors @ self.vlad.describe(features.descriptors)), kind="stable")

    def _parts(self, order: Points) -> Iterator[tuple[Points, slice]]:
        """Points to match and the features that ask them, the most promising first."""
        strongest = self.family.strongest
        if self.vlad is None:
            everything = np.arange(len(self.points))
            yield everything, slice(0, strongest)
            yield everything, slice(strongest, None)
            return
        known = np.zeros(len(self.points), dtype=bool)
        begin, step, asking = 0, 3, slice(0, strongest)
        while begin < min(self.family.retrieved, len(order)):
            fresh = self._points_of(order[begin : begin + step])
            fresh = fresh[~known[fresh]]
            known[fresh] = True
            yield fresh, asking
            begin, step, asking = begin + step, 2 * step, slice(None)

    def _refine(self, matched: _Matched, query: Query, world_from_cam: Pose) -> PnP:
        """The pose and its covariance by matches whose points carry their own."""
        return refine_pnp(
            self.points[matched.points],
            matched.pixels,
            query.camera,
            world_from_cam,
            point_covariance=self.places.covariance(matched.points),
            max_error_px=self.family.max_error_px,
        )

    def _doubted(self, found: PnP, tried: _Matched, refined: _Matched, query: Query) -> PnP:
        """The answer with what `runs` RANSACs disagree on added to its covariance.

        Each sees a half of the matches `tried` by RANSAC, and is refined, as the answer was, on a half of those that
        were found around the answer. Where too few of these agree it found another place, and is left there.
        """
        more = self.family.runs - 1
        if found.world_from_cam is None or found.count < self.family.least or not more:
            return found
        told, max_error_px = (self.points[tried.points], tried.pixels, query.camera), self.family.max_error_px
        firsts = poses_of_halves(*told, runs=more, max_error_px=max_error_px)
        others = []
        for first, half in zip(firsts, halves(len(refined.points), more, seed=0), strict=False):
            other = self._refine(_Matched(refined.points[half], refined.pixels[half]), query, first)
            lost = other.world_from_cam is None or 2 * other.count < self.family.least
            others.append(first if lost or other.world_from_cam is None else other.world_from_cam)
        return scattered(found, others)

    def _covisible(self, order: Points) -> Points:
        """The pictures among which the 3D-to-2D search chooses."""
        return order if self.vlad is None else order[: 2 * self.family.covisible]

    def _around(self, seen: Points, order: Points, camera: Camera, world_from_cam: Pose) -> Projected:
        """The points of the pictures that share most with those seen, where they fall on the query."""
        mark = np.zeros(len(self.points), dtype=np.int32)
        mark[seen] = 1
        likely = self._covisible(order)
        shared = np.array([mark[self._seen_by(picture)].sum() for picture in likely])
        most = likely[np.argsort(-shared, kind="stable")[: self.family.covisible]]
        return self._visible(most, camera, world_from_cam)

    def _visible(self, pictures: Points, camera: Camera, world_from_cam: Pose) -> Projected:
        """The points on a camera's picture that some pictures of the map saw.

        Of pictures like its own, that leaves out most of what lies behind a wall, without a model of the walls.
        """
        return projected(self._points_of(pictures), self.points, camera, world_from_cam)

    def _guided(
        self, near: Projected, features: Features, unit: NDArray[np.float32], radius_px: float
    ) -> tuple[Points, Points]:
        """3D-to-2D matches (points, features): the likest within a radius of each other, each used once.

        All the points take part: where the right one is left out, a neighbour that is nearly alike takes its feature.
        """
        if not len(near.points):
            return near.points, near.points
        crowd = len(near.points) * math.pi * radius_px**2 / np.prod(np.ptp(near.pixels, axis=0) + 1.0)
        most = min(len(near.points), max(_FEWEST, math.ceil(3 * crowd)))
        tree = KDTree(near.pixels, balanced_tree=False, compact_nodes=False)
        distance, index = tree.query(features.pixels, k=most, distance_upper_bound=radius_px)
        distance, index = (np.asarray(found).reshape(len(features), -1) for found in (distance, index))
        feature, rank = np.nonzero(np.isfinite(distance))
        which = index[feature, rank]
        seen = np.unique(which)
        rows = np.zeros(len(near.points), np.intp)
        rows[seen] = np.arange(len(seen))
        described = self.codes.vectors(near.points[seen])
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
            **self.places.tensors(),
            **self.codes.tensors(),
            "points.rgb": self.rgb,
            "seen.step": gaps(self.seen_point, self.seen_start),
            "seen.start": self.seen_start,
        }
        if self.vlad is not None:
            tensors |= {"pictures.vlad": self.vectors.astype(np.float16), **self.vlad.tensors()}
        save_map(folder, self.info, tensors)

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Read a map folder."""
        info, tensors = load_info(folder), load_map_tensors(folder)
        family, starts = config_from_json(Structure, info.config), tensors["seen.start"]
        vectors = np.zeros((len(starts) - 1, 0)) if family.at_once else tensors["pictures.vlad"]
        return cls(
            family=family,
            info=info,
            places=Places.from_tensors(tensors),
            rgb=tensors["points.rgb"],
            codes=Codes.from_tensors(tensors),
            seen_point=lists(tensors["seen.step"], starts),
            seen_start=starts,
            vlad=None if family.at_once else Vlad.from_tensors(tensors),
            vectors=vectors.astype(np.float32),
        )


def _first_of_each(values: Points) -> NDArray[np.bool_]:
    first = np.zeros(len(values), dtype=bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first
