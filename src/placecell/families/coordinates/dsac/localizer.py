"""A trained coordinate network: where each cell of a picture lies, and the pose on which most of them agree."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from placecell.anchor import Anchor
from placecell.augment import Varied
from placecell.camera import Camera
from placecell.errors import FormatError
from placecell.estimate import Estimate, Query
from placecell.families.coordinates.dsac.answering import answered, coordinates
from placecell.families.coordinates.dsac.config import Dsac
from placecell.families.coordinates.dsac.end_to_end import Scored
from placecell.families.coordinates.dsac.expected import Ransac
from placecell.families.coordinates.dsac.fcn import STRIDE, CoordinateNetwork
from placecell.families.coordinates.dsac.scores import ScoreNetwork
from placecell.families.coordinates.dsac.shots import cell_pixels, seen_by_depth
from placecell.families.coordinates.keeping import fill, packed
from placecell.families.coordinates.sight import camera_seen
from placecell.images import LEAST_DETAIL, detail
from placecell.localizer import MapInfo, config_from_json, load_info, load_map_tensors, save_map
from placecell.pnp import PnP
from placecell.pose import Array
from placecell.resample import resample
from placecell.rigid import Rigid
from placecell.scene import camera_from_json, camera_to_json
from placecell.train.devices import require_device

_NETWORK = "network"
"""How the names of its tensors begin."""


class Seen(NamedTuple):
    """What a map says of the cells of a picture."""

    points_anchor: Array
    """(h, w, 3)."""
    camera: Camera
    """A pinhole at the place of the query; its whole cells of 8 pixels are these."""
    points_cam: Array | None
    """(h, w, 3) what the depth of the query has there, NaN where it has nothing; None for maps that want no depth."""


@dataclass(frozen=True, eq=False)
class DsacMap:
    """A built coordinate network."""

    family: Dsac
    info: MapInfo
    network: nn.Module
    """A `CoordinateNetwork`, or `Scored` with one, in eval mode, on the device that answers."""
    camera: Camera
    """Of the training pictures as the network saw them."""
    anchor: Anchor
    logs: Mapping[str, str]
    """How the stages of the training went, by their names."""

    @property
    def wants_depth(self) -> bool:
        """Whether queries have to bring their depth."""
        return self.family.rgbd

    @property
    def unfinished(self) -> str | None:
        """What is left of an interrupted training, in words; None when it ran to its end."""
        left: str | None = self.info.extra.get("unfinished")
        return left

    @property
    def ransac(self) -> Ransac:
        """How poses are found, in training and in use."""
        return ransac_of(self.family, self.info.metric, self.anchor)

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        """Place each picture; one of which too few cells agree is refused with their number."""
        return [self._localize(query) for query in queries]

    def _localize(self, query: Query) -> Estimate:
        start = time.perf_counter()
        found = self._placed(query)
        seconds = time.perf_counter() - start
        if isinstance(found, str):
            return Estimate.refusal(query.name, found, seconds)
        if found.world_from_cam is None or found.count < self.family.least:
            reason = f"{found.count} coordinates agree on a pose, {self.family.least} needed"
            return Estimate.refusal(query.name, reason, seconds)
        pose = self.anchor.world_from_anchor @ found.world_from_cam
        matches = len(found.inliers)
        return Estimate(query.name, pose, found.covariance, inliers=found.count, matches=matches, seconds=seconds)

    def _placed(self, query: Query) -> PnP | Rigid | str:
        """What most cells of a picture agree on, or why they are not asked."""
        if query.defect is not None:
            return query.defect
        if self.family.rgbd and query.depth_m is None:
            return "this map needs the depth of each picture, and this one has none"
        camera = camera_seen(query.camera, self.camera)
        image = resample(query.image, query.camera, camera)
        if (shown := detail(image)) < LEAST_DETAIL:
            needed = f"(detail {shown:.2f}, {LEAST_DETAIL} needed)"
            return f"hardly anything is in the picture {needed}; it is dark, blurred or of a bare wall"
        if (count := len(cell_pixels(camera, STRIDE).reshape(-1, 2))) < self.family.least:
            return f"the picture has {count} cells as this map sees it, {self.family.least} needed"
        seen = self._seen(query, image, camera)
        if not np.isfinite(seen.points_anchor).all():
            return "the network answers with numbers that are none; train it again with a lower learning rate"
        if seen.points_cam is not None:
            known = int(np.isfinite(seen.points_cam).all(axis=-1).sum())
            if known < self.family.least:
                return f"{known} cells have depth, {self.family.least} needed"
        told = self.network, seen.points_anchor, camera, self.ransac
        return answered(*told, seen_hw3=seen.points_cam, runs=self.family.runs)

    def coordinates(self, query: Query) -> Seen:
        """Where the cells of a picture lie."""
        camera = camera_seen(query.camera, self.camera)
        return self._seen(query, resample(query.image, query.camera, camera), camera)

    def _seen(self, query: Query, image: NDArray[np.uint8], camera: Camera) -> Seen:
        points_cam = None
        if self.family.rgbd and query.depth_m is not None:
            at = Varied(image, camera, np.eye(3))
            points_cam = seen_by_depth(query.depth_m, query.camera, at, cell_pixels(camera, STRIDE)).astype(np.float64)
        return Seen(coordinates(self.network, image), camera, points_cam)

    def to(self, device: str) -> Self:
        """This map, answering on a device."""
        self.network.to(device)
        return self

    def save(self, folder: Path) -> None:
        """Write the map folder; weights in half precision."""
        extra = {
            "camera_seen": camera_to_json(self.camera),
            **self.anchor.to_json(),
            "stages": list(self.logs),
        }
        info = replace(self.info, extra={**self.info.extra, **extra})
        tensors = packed(self.network, _NETWORK, "half")
        save_map(folder, info, tensors, texts={f"{name}.csv": text for name, text in self.logs.items()})

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Read a map folder.

        Raises:
            MissingDevice: the device is not there.
            FormatError: a file is damaged, or of another version.
        """
        info = load_info(folder)
        family = config_from_json(Dsac, info.config)
        tensors = load_map_tensors(folder)
        require_device(device)
        try:
            camera = camera_from_json(info.extra["camera_seen"])
            anchor = Anchor.from_json(info.extra)
            stages = [str(name) for name in info.extra["stages"]]
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{folder / 'map.json'}: damaged ({error}); build the map again") from error
        with torch.random.fork_rng(devices=[]):  # what it draws is replaced
            network = network_of(family).eval()
        path = folder / "weights.safetensors"
        if strange := sorted(tensors.keys() - fill(network, _NETWORK, tensors, path)):
            raise FormatError(f"{path}: tensor {strange[0]} does not fit map.json; build the map again")
        paths = {name: folder / f"{name}.csv" for name in stages}
        logs = {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path.is_file()}
        return cls(family, info, network, camera, anchor, logs).to(device)


def network_of(family: Dsac, middle: torch.Tensor | None = None, size: float = 1.0) -> CoordinateNetwork | Scored:
    """The network of the settings, of weights drawn from torch's default generator."""
    network = CoordinateNetwork(width=family.width, grey=family.grey, middle=middle, size=size)
    return network if family.scores == "soft" else Scored(network, ScoreNetwork())


def ransac_of(family: Dsac, metric: bool, anchor: Anchor) -> Ransac:
    """RANSAC of the settings; where the scene has no metres, the scale of the map counts as one."""
    return Ransac(
        hypotheses=family.hypotheses,
        max_error=family.max_error_m if family.rgbd else family.max_error_px,
        alpha=family.alpha,
        measure=family.measure,
        cm_per_unit=100.0 if metric else 100.0 / anchor.scale,
    )
