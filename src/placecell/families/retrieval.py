"""The pose of the most similar training picture: the papers' nearest-neighbour baseline."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from placecell.errors import MapError
from placecell.estimate import Estimate, Query
from placecell.features import scene_features
from placecell.localizer import MapInfo, config_from_json, load_info, load_map_tensors, save_map
from placecell.log import Log
from placecell.pose import Array, Pose, mean_pose
from placecell.scene import Scene
from placecell.sift import Sift
from placecell.vlad import Vlad


@dataclass(frozen=True)
class Retrieval:
    """Nearest picture by SIFT-VLAD; with `top` > 1 the mean pose of the `top` nearest, weighted by similarity.

    The mean is the weighted mean of the centres and the chordal mean of the rotations. An answer carries no covariance:
    nothing in the method measures one.
    """

    name: ClassVar[str] = "retrieval"

    top: int = 1
    """How many pictures are averaged."""
    features: int = 1024
    """SIFT features a picture, at most."""
    words: int = 64
    """Visual words of the VLAD."""
    dimensions: int = 256
    """Length of a picture's vector."""

    def __post_init__(self) -> None:
        if min(self.top, self.features, self.words, self.dimensions) < 1:
            raise ValueError("top, features, words and dimensions count from 1")

    @property
    def sift(self) -> Sift:
        """The detector of map and queries."""
        return Sift(self.features)

    def build(self, scene: Scene, *, device: str = "cpu", seed: int = 0, log: Log) -> RetrievalMap:
        """Describe the posed training frames. `device` is always the processor.

        Raises:
            MapError: no posed training frame, or none with features.
        """
        frames = scene.split("train").posed
        features = scene_features(scene, frames, self.sift, log)
        kept = [index for index, found in enumerate(features) if len(found)]
        if not kept:
            raise MapError(f"scene {scene.name} has no posed training frame with features; are the pictures black?")
        descriptors = [features[index].descriptors for index in kept]
        vlad = Vlad.train(descriptors, words=self.words, dimensions=self.dimensions, seed=seed)
        poses = [pose.matrix[:3] for pose in (frames[index].world_from_cam for index in kept) if pose is not None]
        return RetrievalMap(
            family=self,
            info=MapInfo.of(self, scene, seed),
            vlad=vlad,
            vectors=np.stack([vlad.describe(block) for block in descriptors]),
            world_from_cam=np.stack(poses),
        )


@dataclass(frozen=True, eq=False)
class RetrievalMap:
    """A built retrieval map."""

    family: Retrieval
    info: MapInfo
    vlad: Vlad
    vectors: NDArray[np.float32]
    """(F, D) of the training pictures."""
    world_from_cam: Array
    """(F, 3, 4) their poses."""

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        """The pose of the nearest picture, or the mean of the nearest; a picture without features is refused."""
        return [self._localize(query) for query in queries]

    def _localize(self, query: Query) -> Estimate:
        start = time.perf_counter()
        reason = query.defect
        if reason is None:
            features = self.family.sift.detect(query.image)
            if len(features) == 0:
                reason = "no features found; the picture is dark or blurred"
        if reason is not None:
            return Estimate.refusal(query.name, reason, time.perf_counter() - start)
        similarity = self.vectors @ self.vlad.describe(features.descriptors)
        nearest = np.argsort(-similarity, kind="stable")[: self.family.top]
        weights = np.maximum(similarity[nearest].astype(np.float64), 1e-6)
        try:
            pose = mean_pose([Pose.nearest(self.world_from_cam[index]) for index in nearest], weights)
        except ValueError:
            reason = f"the {len(nearest)} most similar pictures look opposite ways, so they have no mean"
            return Estimate.refusal(query.name, reason, time.perf_counter() - start)
        return Estimate(query.name, pose, seconds=time.perf_counter() - start)

    def save(self, folder: Path) -> None:
        """Write the map folder."""
        tensors: dict[str, NDArray[Any]] = {
            "pictures.vlad": self.vectors,
            "pictures.world_from_cam": self.world_from_cam,
        }
        save_map(folder, self.info, {**tensors, **self.vlad.tensors()})

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Read a map folder."""
        info, tensors = load_info(folder), load_map_tensors(folder)
        return cls(
            family=config_from_json(Retrieval, info.config),
            info=info,
            vlad=Vlad.from_tensors(tensors),
            vectors=tensors["pictures.vlad"],
            world_from_cam=tensors["pictures.world_from_cam"],
        )
