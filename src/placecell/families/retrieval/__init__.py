"""The pose of the most similar training picture: the papers' nearest-neighbour baseline."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from placecell.errors import MapError
from placecell.estimate import Estimate, Query
from placecell.families.retrieval.describers import Convnet, Describer, SiftVlad, encoder
from placecell.localizer import MapInfo, config_from_json, load_info, load_map_tensors, save_map
from placecell.log import Log
from placecell.pose import Array, Pose, mean_pose
from placecell.scene import Scene, camera_from_json
from placecell.sift import Sift
from placecell.vlad import Vectors, Vlad

Descriptor = Literal["vlad", "convnet"]


@dataclass(frozen=True)
class Retrieval:
    """Nearest picture by SIFT-VLAD or convnet features; with `top` > 1 the mean pose of the nearest, by similarity.

    The mean is the weighted mean of the centres and the chordal mean of the rotations. An answer carries no covariance:
    nothing in the method measures one.
    """

    name: ClassVar[str] = "retrieval"

    top: int = 1
    """How many pictures are averaged."""
    descriptor: Descriptor = "vlad"
    """What pictures are compared by: vlad of SIFT features, or convnet, the pooled last map of a network."""
    features: int = 1024
    """SIFT features a picture, at most (vlad)."""
    words: int = 64
    """Visual words (vlad)."""
    dimensions: int = 256
    """Length of a picture's vector."""
    backbone: str = "mobilenet_v2"
    """Network by name, or timm:NAME (convnet)."""
    weights: str = "imagenet"
    """Its weights: imagenet, none (drawn from the seed), or a .safetensors file (convnet)."""

    def __post_init__(self) -> None:
        if min(self.top, self.features, self.words, self.dimensions) < 1:
            raise ValueError("top, features, words and dimensions count from 1")
        if self.descriptor not in get_args(Descriptor):
            raise ValueError(f"descriptor {self.descriptor!r}; known are {', '.join(get_args(Descriptor))}")

    def build(
        self, scene: Scene, *, device: str = "cpu", seed: int = 0, log: Log, work: Path | None = None
    ) -> RetrievalMap:
        """Describe the posed training frames. `device` is for convnets; there is no long work to keep in `work`.

        Raises:
            MapError: no posed training frame, or none with anything to see.
            MissingExtra: convnets need torch.
            PlacecellError: the weights are not there, or of another network.
        """
        frames = scene.split("train").posed
        told: dict[str, Any] = {}
        if not frames:
            trained = None
        elif self.descriptor == "vlad":
            sizes = {"words": self.words, "dimensions": self.dimensions}
            trained = SiftVlad.train(Sift(self.features), scene.split("train"), **sizes, seed=seed, log=log)
        else:
            network, told["weights"] = encoder(self.backbone, self.weights, device=device, seed=seed, log=log)
            trained = Convnet.train(network, scene.split("train"), dimensions=self.dimensions, log=log)
        if trained is None:
            raise MapError(f"scene {scene.name} has no posed training frame with features; are the pictures black?")
        poses = [
            pose.matrix[:3] for pose in (frames[index].world_from_cam for index in trained.kept) if pose is not None
        ]
        info = MapInfo.of(self, scene, seed, **told)
        return RetrievalMap(self, info, trained.describer, trained.vectors, np.stack(poses))


@dataclass(frozen=True, eq=False)
class RetrievalMap:
    """A built retrieval map."""

    family: Retrieval
    info: MapInfo
    describer: Describer
    vectors: Vectors
    """(F, D) of the training pictures."""
    world_from_cam: Array
    """(F, 3, 4) their poses."""

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        """The pose of the nearest picture, or the mean of the nearest; a picture without features is refused."""
        return [self._localize(query) for query in queries]

    def pose_features(self, queries: Sequence[Query]) -> NDArray[np.float32]:
        """(N, D) the vectors that pictures are compared by, of length one; NaN for a picture without any."""
        rows = [None if query.defect else self.describer.describe(query) for query in queries]
        blank = np.full(self.vectors.shape[1], np.nan, np.float32)
        return np.array([blank if row is None else row for row in rows], np.float32).reshape(-1, len(blank))

    def _localize(self, query: Query) -> Estimate:
        start = time.perf_counter()
        reason, vector = query.defect, None
        if reason is None:
            vector = self.describer.describe(query)
        if vector is None:
            return Estimate.refusal(query.name, reason or self.describer.blind, time.perf_counter() - start)
        similarity = self.vectors @ vector
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
        own: dict[str, NDArray[Any]] = {
            f"pictures.{self.family.descriptor}": self.vectors,
            "pictures.world_from_cam": self.world_from_cam,
        }
        save_map(folder, self.info, {**own, **self.describer.tensors()})

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Read a map folder.

        Raises:
            MapError, FormatError: not a map, or damaged.
            MissingExtra: a map of convnet features needs torch.
        """
        info, tensors = load_info(folder), load_map_tensors(folder)
        family = config_from_json(Retrieval, info.config)
        describer: Describer
        if family.descriptor == "vlad":
            describer = SiftVlad(Sift(family.features), Vlad.from_tensors(tensors))
        else:
            camera = camera_from_json(info.extra["camera"])
            describer = Convnet.restored(family.backbone, camera, tensors, device)
        vectors, poses = tensors[f"pictures.{family.descriptor}"], tensors["pictures.world_from_cam"]
        return cls(family, info, describer, vectors, poses)
