"""A trained pose-regression map: one look of a network, or many, and a pose or a reason."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from placecell.anchor import Anchor
from placecell.backbones import fused, picture_tensor
from placecell.camera import Camera
from placecell.errors import FormatError, MapError
from placecell.estimate import Estimate, Query
from placecell.families.regression import dense
from placecell.families.regression.config import Regression
from placecell.families.regression.covariance import covariance_of
from placecell.families.regression.looking import NO_NUMBERS, agreed, answer, shown
from placecell.families.regression.network import Answer, PoseNetwork
from placecell.families.regression.saliency import on_picture, saliency_of
from placecell.families.regression.sight import depth_as, depth_tensor
from placecell.families.regression.spreads import Spread
from placecell.localizer import MapInfo, config_from_json, load_info, load_map_tensors, save_map
from placecell.pose import Pose
from placecell.scene import camera_from_json, camera_to_json
from placecell.train.devices import require_device

_LOG = "training.csv"
_AT_ONCE = 32

Seen = tuple[torch.Tensor, torch.Tensor | None]
"""Pictures (B, 3, H, W) and, for RGB-D networks, their encoded depth."""


@dataclass(frozen=True, eq=False)
class RegressionMap:
    """A built regression map."""

    family: Regression
    info: MapInfo
    network: PoseNetwork
    """In eval mode, without auxiliary heads, on the device that answers."""
    camera: Camera
    """The canonical camera that every picture is resampled to before windows are cut from it."""
    anchor: Anchor
    least_detail: float
    """`sight.detail` of the poorest training picture."""
    log_csv: str = ""
    """How the training went."""

    @property
    def wants_depth(self) -> bool:
        """Whether queries have to bring their depth."""
        return self.family.depth

    @property
    def unfinished(self) -> str | None:
        """What is left of an interrupted training, in words; None when it ran to its end."""
        left: str | None = self.info.extra.get("unfinished")
        return left

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        """What the network says of each picture; blank ones and those with hardly anything in them are refused."""
        return [self._localize(query) for query in queries]

    def _localize(self, query: Query) -> Estimate:
        start = time.perf_counter()
        seen = self._seen(query)
        if isinstance(seen, str):
            return Estimate.refusal(query.name, seen, time.perf_counter() - start)
        return answer(query.name, self._together(self._answers(*seen)), self.anchor, start)

    def spread(self, query: Query) -> Spread:
        """How far off the pose of a picture may be, by its causes; the mean is `anchor_from_cam`.

        Raises:
            MapError: the picture cannot be placed by this map.
        """
        seen = self._seen(query)
        found = seen if isinstance(seen, str) else self._together(self._answers(*seen))
        if isinstance(found, str):
            raise MapError(f"{query.name}: {found}; choose another picture")
        return found

    def _together(self, answers: Sequence[Answer]) -> Spread | str:
        """What the answers say together, or why they say nothing."""
        numbers = [part for a in answers for part in (a.centre_B3, a.raw_BK, a.whitening_B66) if part is not None]
        if not all(bool(part.isfinite().all()) for part in numbers):
            return NO_NUMBERS
        expected = [covariance_of(a.whitening_B66) for a in answers if a.whitening_B66 is not None]
        poses, passes = _poses(answers), max(1, self.family.passes)
        windows = [poses[begin : begin + passes] for begin in range(0, len(poses), passes)]
        return agreed(windows, np.concatenate(expected) if expected else None)

    def saliency(self, query: Query) -> NDArray[np.float32]:
        """(H, W) how far the answer moves with each pixel of the picture, at least 0; 0 where the network sees none.

        Raises:
            MapError: the picture cannot be placed by this map.
        """
        seen = self._central._seen(query)
        if isinstance(seen, str):
            raise MapError(f"{query.name}: {seen}; choose another picture")
        found = saliency_of(self.network, *seen, length=self.anchor.scale)[0].cpu().numpy()
        return on_picture(found, dense.central(self.camera, self.family.crop).camera, query.camera)

    def pose_features(self, queries: Sequence[Query]) -> NDArray[np.float32]:
        """(N, D) what the last layer makes the pose of, NaN for pictures that are refused."""
        found = [self._central._feature(query) for query in queries]
        width = self.network.head.features
        none = np.full(width, np.nan, np.float32)
        return np.array([none if feature is None else feature for feature in found], np.float32).reshape(-1, width)

    @property
    def _central(self) -> Self:
        """This map with one look a picture."""
        return replace(self, family=replace(self.family, inference="centre", passes=0))

    def _feature(self, query: Query) -> NDArray[np.float32] | None:
        seen = self._seen(query)
        if isinstance(seen, str):
            return None
        (answer,) = self._answers(*seen)
        feature: NDArray[np.float32] = answer.feature_BD[0].cpu().numpy()
        return feature

    def _seen(self, query: Query) -> Seen | str:
        """What the network is shown of a picture, or why it is not."""
        if query.defect is None and self.family.depth and query.depth_m is None:
            return "this map needs the depth of each picture, and this one has none"
        looks = dense.looks(self.camera, self.family)
        windows = shown(query, self.camera, self.least_detail, looks)
        if isinstance(windows, str):
            return windows
        images = picture_tensor(windows).to(self._device)
        if query.depth_m is None or not self.family.depth:
            return images, None
        depth_m = depth_as(query.depth_m, query.camera, self.camera)[None]
        return images, depth_tensor([(look.cut(depth_m)[0], look.camera) for look in looks]).to(self._device)

    def _answers(self, images: torch.Tensor, depth: torch.Tensor | None) -> list[Answer]:
        """The network's answers, a few windows at a time."""
        with torch.inference_mode():
            if self.family.inference == "one-pass":
                return self.network.windows(images, depth)
            chunks = range(0, len(images), _AT_ONCE)
            cut = [(images[i : i + _AT_ONCE], None if depth is None else depth[i : i + _AT_ONCE]) for i in chunks]
            if self.family.passes:
                asked = (self.family.passes, self.info.seed)
                return [answer for part in cut for answer in self.network.passes(*part, *asked)]
            return [self.network(*part)[0] for part in cut]

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def save(self, folder: Path) -> None:
        """Write the map folder."""
        extra = {
            "canonical_camera": camera_to_json(self.camera),
            **self.anchor.to_json(),
            "least_detail": self.least_detail,
        }
        info = replace(self.info, extra={**self.info.extra, **extra})
        tensors = {key: value.cpu().numpy() for key, value in self.network.state_dict().items()}
        save_map(folder, info, tensors, texts={_LOG: self.log_csv} if self.log_csv else None)

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Read a map folder.

        Raises:
            MissingDevice: the device is not there.
            FormatError: a file is damaged, or of another version.
        """
        info = load_info(folder)
        family = config_from_json(Regression, info.config)
        tensors = load_map_tensors(folder)
        require_device(device)
        try:
            extra = info.extra
            camera = camera_from_json(extra["canonical_camera"])
            anchor = Anchor.from_json(extra)
            least_detail = float(extra["least_detail"])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{folder / 'map.json'}: damaged ({error}); build the map again") from error
        network = _filled(family, anchor, camera, tensors, folder / "weights.safetensors").to(device)
        path = folder / _LOG
        log_csv = path.read_text(encoding="utf-8") if path.is_file() else ""
        return cls(family, info, network, camera, anchor, least_detail, log_csv)


def size_seen(camera: Camera, config: Regression) -> tuple[int, int]:
    """Width and height of what the network sees in one look at a picture of the canonical camera."""
    window = dense.central(camera, config.crop).camera
    return window.width, window.height


def answering(network: PoseNetwork, family: Regression, camera: Camera) -> PoseNetwork:
    """A copy of a trained network as it answers: without auxiliary heads, fused, in eval mode, on the processor."""
    bare = _bare(family, network.scale, camera)
    given = network.state_dict()
    bare.load_state_dict({key: given[key] for key in bare.state_dict()})
    return _fused(bare)


def _bare(family: Regression, scale: float, camera: Camera) -> PoseNetwork:
    with torch.random.fork_rng(devices=[]):  # what it draws is replaced
        bare = PoseNetwork(replace(family, auxiliary=False), scale, size=size_seen(camera, family)).eval()
    bare.drop_unused()
    return bare


def _fused(network: PoseNetwork) -> PoseNetwork:
    """The network with the batch norms of its encoders folded in and their branches merged: the same, but faster."""
    network.backbone = fused(network.backbone)
    if network.depth_backbone is not None:
        network.depth_backbone = fused(network.depth_backbone)
    return network


def _filled(
    family: Regression, anchor: Anchor, camera: Camera, tensors: Mapping[str, NDArray[Any]], path: Path
) -> PoseNetwork:
    network = _fused(_bare(family, anchor.scale, camera))
    expected = network.state_dict()
    given = {key: torch.from_numpy(tensors[key]) for key in expected}
    strange = [key for key in expected if given[key].shape != expected[key].shape] + sorted(set(tensors) - set(given))
    if strange:
        raise FormatError(f"{path}: tensor {strange[0]} does not fit the settings in map.json; build the map again")
    network.load_state_dict(given)
    return network


def _poses(answers: Sequence[Answer]) -> list[Pose]:
    """The answers `anchor_from_cam` as poses; rotations from float32 are made exact."""
    centres = torch.cat([answer.centre_B3 for answer in answers]).double().cpu().numpy()
    rotations = torch.cat([answer.rotation_B33 for answer in answers]).double().cpu().numpy()
    return [
        Pose.nearest(np.column_stack([rotation, centre])) for rotation, centre in zip(rotations, centres, strict=True)
    ]
