"""A grown forest: what its trees say of a query's pixels, and the pose that most of that agrees on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.errors import FormatError, naming_extras
from placecell.estimate import Estimate, Query
from placecell.families.coordinates.forest.config import Forest
from placecell.families.coordinates.forest.features import DEPTH, GROUPS, Probes
from placecell.families.coordinates.forest.growing import Tree
from placecell.families.coordinates.forest.leaves import Leaves, Remembered
from placecell.families.coordinates.forest.lessons import as_pixels, drawn, drawn_anywhere, sight
from placecell.families.coordinates.forest.stages import Stage, together
from placecell.families.coordinates.preemptive import Found, Guesses, preemptive_kabsch, preemptive_pnp
from placecell.localizer import MapInfo, config_from_json, load_info, load_map_tensors, save_map
from placecell.pose import Array, Pose
from placecell.scene import camera_from_json, camera_to_json

if TYPE_CHECKING:
    from placecell.families.coordinates.forest.network import Network

_STRANGE = 100.0
"""Depth so many times that of the training pictures is in another unit."""


@dataclass(frozen=True, eq=False)
class ForestMap:
    """A built forest."""

    family: Forest
    info: MapInfo
    camera: Camera
    """The canonical camera that every picture is resampled to."""
    world_from_anchor: Pose
    """The frame that the trees answer in."""
    unit: float
    """What the lengths of the settings are in, in the unit of the scene: 1 in metres."""
    usual_depth_m: float | None
    """Median depth of the pixels that were learned from; None where depth plays no part."""
    stages: tuple[Stage, ...] = ()
    """All answer, and each reads what the one before it says."""
    network: Network | None = None
    """Answers in place of the stages."""

    @property
    def wants_depth(self) -> bool:
        """Whether queries have to bring their depth."""
        return self.family.needs_depth

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        """Place each picture by what its pixels show; one whose coordinates do not agree is refused."""
        return [self._localize(query) for query in queries]

    def guesses(self, query: Query) -> Guesses | str:
        """Where some pixels of a picture may look, in the frame of the anchor, or why nothing can be said."""
        family, rng = self.family, np.random.default_rng(self.info.seed)
        if query.defect is not None:
            return query.defect
        if family.needs_depth and query.depth_m is None:
            return "this map needs the depth of each picture, and this one has none"
        if family.needs_depth:
            pixels, points_cam = drawn(query, family.queried, rng)
            if len(pixels) < family.least:
                return f"{len(pixels)} pixels have depth, {family.least} needed"
            if (strange := self._strange_depth(points_cam)) is not None:
                return strange
        else:
            pixels, points_cam = drawn_anywhere(query.camera, family.queried, rng)
        modes = self.modes(query, points_cam)
        seen = points_cam.astype(np.float32) if family.needs_depth else None
        return Guesses(pixels.astype(np.float32), modes.points, modes.weight, seen, modes.covariance)

    def _localize(self, query: Query) -> Estimate:
        start = time.perf_counter()
        guesses = self.guesses(query)
        if isinstance(guesses, str):
            return Estimate.refusal(query.name, guesses, time.perf_counter() - start)
        found = self._consensus(guesses, query.camera)
        seconds = time.perf_counter() - start
        if found.world_from_cam is None:
            return Estimate.refusal(query.name, found.reason or "no pose was found", seconds)
        if found.inliers < self.family.least:
            reason = f"{found.inliers} coordinates agree on a pose, {self.family.least} needed"
            return Estimate.refusal(query.name, reason, seconds)
        pose = self.world_from_anchor @ found.world_from_cam
        covariance = None if found.covariance is None else self.family.doubt * found.covariance
        return Estimate(query.name, pose, covariance, inliers=found.inliers, matches=found.matches, seconds=seconds)

    def _consensus(self, guesses: Guesses, camera: Camera) -> Found:
        family, seed = self.family, self.info.seed
        if guesses.points_cam is None:
            return preemptive_pnp(
                guesses, camera, hypotheses=family.hypotheses or 256, max_error_px=family.max_error_px, seed=seed
            )
        return preemptive_kabsch(
            guesses, hypotheses=family.hypotheses or 1024, max_error_m=family.max_error_m, seed=seed
        )

    def _strange_depth(self, points_cam: Array) -> str | None:
        """Why the depth of a picture cannot be in metres, or None."""
        depth_m = float(np.median(points_cam[:, 2]))
        if self.usual_depth_m is None or 1 / _STRANGE < depth_m / self.usual_depth_m < _STRANGE:
            return None
        return f"its depth is {depth_m:.3g} m in the median, {self.usual_depth_m:.3g} m in training; is it in metres?"

    def modes(self, query: Query, points_cam: Array) -> Remembered:
        """Where the pixels at which points (M, 3) in camera axes are seen may look, in the frame of the anchor."""
        family = self.family
        planes = sight(query, self.camera, depth=DEPTH in GROUPS[family.features])
        pixels = as_pixels(points_cam, self.camera)
        if self.network is not None:
            return self.network.modes(planes, pixels)
        said = []
        for before, stage in zip((None, *self.stages), self.stages, strict=False):
            planes = planes if before is None else before.read(planes, self.unit)
            said.append(stage.modes(planes, pixels, family.modes, family.bandwidth_m * self.unit))
        return together(said)

    def save(self, folder: Path) -> None:
        """Write the map folder."""
        extra = {
            "canonical_camera": camera_to_json(self.camera),
            "world_from_anchor": self.world_from_anchor.matrix[:3].tolist(),
            "unit": self.unit,
            "usual_depth_m": self.usual_depth_m,
            "stages": len(self.stages),
        }
        tensors: dict[str, NDArray[Any]] = {} if self.network is None else self.network.tensors()
        for number, stage in enumerate(self.stages):
            for index, (tree, leaves) in enumerate(zip(stage.trees, stage.leaves, strict=True)):
                tensors |= {f"{number}.{index}.{key}": value for key, value in _tensors(tree, leaves).items()}
        save_map(folder, replace(self.info, extra={**self.info.extra, **extra}), tensors)

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Read a map folder.

        Raises:
            FormatError: a file is damaged, or of another version.
            MissingExtra: a network answers, and torch is not installed.
        """
        info, tensors = load_info(folder), load_map_tensors(folder)
        family = config_from_json(Forest, info.config)
        try:
            camera = camera_from_json(info.extra["canonical_camera"])
            world_from_anchor = Pose.from_matrix(info.extra["world_from_anchor"])
            unit, count = float(info.extra["unit"]), int(info.extra["stages"])
            usual = info.extra["usual_depth_m"]
            usual_depth_m = None if usual is None else float(usual)
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{folder / 'map.json'}: damaged ({error}); build the map again") from error
        stages = tuple(_stage_from(tensors, number, family.trees) for number in range(count))
        network = _network_from(tensors, family, unit, folder) if family.predictor == "network" else None
        return cls(family, info, camera, world_from_anchor, unit, usual_depth_m, stages, network)


def _tensors(tree: Tree, leaves: Leaves) -> dict[str, NDArray[Any]]:
    return {
        "offset": tree.probes.offset,
        "plane": tree.probes.plane,
        "divides": np.packbits(tree.divides),
        "probe": tree.probe,
        "threshold": tree.threshold,
        **{f"modes.{key}": value for key, value in vars(leaves).items()},
    }


def _network_from(tensors: Mapping[str, NDArray[Any]], family: Forest, unit: float, folder: Path) -> Network:
    with naming_extras():
        from placecell.families.coordinates.forest.network import Network
    return Network.of(tensors, family.hidden, unit, folder / "weights.safetensors")


def _stage_from(tensors: Mapping[str, NDArray[Any]], number: int, trees: int) -> Stage:
    grown = [_from_tensors(tensors, f"{number}.{index}.") for index in range(trees)]
    return Stage(tuple(tree for tree, _ in grown), tuple(leaves for _, leaves in grown))


def _from_tensors(tensors: Mapping[str, NDArray[Any]], prefix: str) -> tuple[Tree, Leaves]:
    offset, plane, divides, probe, threshold = (
        tensors[prefix + key] for key in ("offset", "plane", "divides", "probe", "threshold")
    )
    # A binary tree has one leaf more than nodes that divide.
    shape = np.unpackbits(divides, count=2 * len(probe) + 1).astype(bool)
    tree = Tree(Probes(offset, plane), shape, probe, threshold)
    return tree, Leaves(**{key: tensors[f"{prefix}modes.{key}"] for key in Leaves.__dataclass_fields__})
