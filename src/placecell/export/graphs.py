"""What of a map becomes the ONNX file: pictures in, the numbers that `runtime` reads poses from out.

Pictures enter as they are decoded, (B, H, W, 3) RGB uint8, and are normalised inside, so that nobody can do it
otherwise than training did. What turns numbers into poses (softmax over clusters, Procrustes, RANSAC) stays outside,
in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from placecell.backbones import MEAN, STD, picture_tensor
from placecell.errors import MapError
from placecell.export.draws import with_draws
from placecell.families.coordinates.encoder import Encoder, doubled
from placecell.families.coordinates.head import Head
from placecell.families.coordinates.localizer import CoordinatesMap
from placecell.families.regression.alignment import Alignment
from placecell.families.regression.localizer import RegressionMap, size_seen
from placecell.families.regression.network import PoseNetwork
from placecell.families.regression.reading import LEAST_WEIGHT, Doubt
from placecell.localizer import Localizer, Tensors
from placecell.runtime.coordinates import WHOLE_PX
from placecell.runtime.exported import Reading


@dataclass(frozen=True, eq=False)
class Graph:
    """A network to export."""

    network: nn.Module
    """Pictures (B, H, W, 3) uint8 in, a tuple of float32 out."""
    size: tuple[int, int]
    """Width and height of the pictures; where `free`, of an example."""
    free: bool
    """Whether pictures of other sizes, multiples of `WHOLE_PX`, go in too."""
    outputs: tuple[str, ...]
    reads: Reading
    tensors: Tensors
    """What the numbers are read with."""
    features: int
    """How many numbers the pose feature, the last of the outputs, has; 0 where there is none."""
    last: tuple[str, ...]
    """Parameters of the layers whose numbers are the answer, to be kept in floating point."""


def graph_of(localizer: Localizer) -> Graph:
    """What of a map is exported.

    Raises:
        MapError: a map of this kind is not exported.
    """
    if isinstance(localizer, RegressionMap):
        return _of_regression(localizer)
    if isinstance(localizer, CoordinatesMap):
        return _of_coordinates(localizer)
    raise MapError(
        f"{type(localizer).__name__}: only maps of regression and coordinates are exported; "
        "those of structure and retrieval run without torch as they are"
    )


def _of_regression(found: RegressionMap) -> Graph:
    if found.family.depth:
        raise MapError("maps that want the depth of pictures are not exported; build one without --depth")
    if found.family.passes and found.family.inference != "centre":
        raise MapError(
            f"passes of {found.family.inference} inference are not exported; those of --inference centre are, "
            "and windows without --passes"
        )
    one_pass = found.family.inference == "one-pass"
    size = (found.camera.width, found.camera.height) if one_pass else size_seen(found.camera, found.family)
    head, tensors = _answering_head(found, size), _doubt_of(found.network)
    if isinstance(head, Alignment):
        tensors |= {key: getattr(head, key).cpu().numpy() for key in ("rays", "depth", "middle")}
        network: nn.Module = AlignGraph(found.network, head).eval()
        return Graph(network, size, False, ("cells", "feature"), "align", tensors, head.features, ("numbers",))
    network = PoseGraph(found.network, head, one_pass).eval()
    last = ("head.centre", "head.rotation")
    return Graph(network, size, False, ("centre", "rotation", "feature"), "pose", tensors, network.head.features, last)


def _answering_head(found: RegressionMap, size: tuple[int, int]) -> nn.Module:
    """The head of a map, with its passes where it answers by such."""
    network, passes = found.network, found.family.passes
    if not passes:
        return network.head
    with torch.no_grad():
        maps = network.maps(picture_tensor(_noise(size, 1)))
    return with_draws(network.head, maps, passes, found.info.seed)


def _doubt_of(network: PoseNetwork) -> dict[str, NDArray[Any]]:
    """The tensors of a network's covariance head; none where it has none."""
    if network.covariance is None:
        return {}
    return Doubt.kept({name: values.cpu().numpy() for name, values in network.covariance.state_dict().items()})


def _of_coordinates(found: CoordinatesMap) -> Graph:
    if found.gate is not None:
        raise MapError("maps of several experts are not exported; build one with --experts 1")
    if not isinstance(found.head, Head):
        raise MapError(f"a head of {type(found.head).__name__} is not exported")
    tensors = {"centres": found.head.centres_K3.cpu().numpy(), "size": found.head.size.cpu().numpy()}
    size = tuple(side // WHOLE_PX * WHOLE_PX for side in (found.camera.width, found.camera.height))
    network = CellsGraph(found.encoder, found.head).eval()
    return Graph(network, (size[0], size[1]), True, ("cells",), "cells", tensors, 0, ("leave",))


class Normalised(nn.Module):
    """Pictures as backbones take them, of pictures as they are decoded: `backbones.picture_tensor` in a graph."""

    def __init__(self) -> None:
        super().__init__()
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", mean / std)
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, images_BHW3: Tensor) -> Tensor:
        """(B, 3, H, W) float32 of uint8."""
        # Turned before, not after: OpenVINO then has its first convolution in a third of the time.
        return images_BHW3.permute(0, 3, 1, 2).float() * self.scale - self.shift


class AlignGraph(nn.Module):
    """A network with an align head, up to the five numbers of each cell and the pose feature."""

    def __init__(self, network: PoseNetwork, head: Any) -> None:
        super().__init__()
        self.normalised, self.backbone = Normalised(), network.backbone
        self.mix, self.numbers, self.tap = head.mix, head.numbers, head.taps[0]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, 5) and (B, D); with T passes (B T, ...)."""
        mixed = self.mix(self.backbone(self.normalised(images))[self.tap])
        numbers: Tensor = self.numbers(mixed).flatten(2)
        weight = torch.sigmoid(numbers[:, 4:]) + LEAST_WEIGHT
        feature = (mixed.flatten(2) * (weight / weight.sum(-1, keepdim=True))).sum(-1)
        return numbers.mT, feature


class PoseGraph(nn.Module):
    """A network whose head says a centre and the numbers of a rotation; of one picture each, or of its windows."""

    def __init__(self, network: PoseNetwork, head: Any, one_pass: bool) -> None:
        super().__init__()
        self.normalised, self.network, self.one_pass = Normalised(), network, one_pass
        self.head = head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3) in units of the map's scale, (B, K), and the feature (B, D); of W windows or T passes (B W, ...)."""
        seen = self.normalised(images)
        maps = dict(self.network.backbone(seen))
        if self.one_pass:
            windows = list(self.network.whole_windows({tap: maps[tap] for tap in self.head.taps}))
            maps = {tap: torch.cat([window[tap] for window in windows]) for tap in self.head.taps}
        numbers = self.head(maps)
        return numbers.centre_B3, numbers.raw_BK, numbers.feature_BD


class CellsGraph(nn.Module):
    """An encoder and a head of scene coordinates, its layers as convolutions of 1x1; sides are multiples of 16."""

    def __init__(self, encoder: Encoder, head: Head) -> None:
        super().__init__()
        self.normalised, self.backbone = Normalised(), encoder.backbone
        self.taps, self.coarse, self.context = encoder.taps, encoder.coarse, head.context
        self.register_buffer("mean", head.mean_C.view(1, -1, 1, 1))
        self.register_buffer("scale", head.scale_C.view(1, -1, 1, 1))
        self.mean: Tensor
        self.scale: Tensor
        self.enter, self.last, self.leave = (_as_convolution(x) for x in (head.enter, head.last, head.leave))
        self.blocks = nn.ModuleList(_block(block) for block in head.blocks)

    def forward(self, images: Tensor) -> Tensor:
        """(B, N, 5 + clusters) of `asked_cells`, as `decoding.points_of` reads them."""
        maps = self.backbone(self.normalised(images))
        fine, even, coarse = (maps[tap] for tap in self.taps)
        between = doubled(doubled(coarse).mT).mT
        seen = _chessboard(torch.cat([F.pixel_unshuffle(fine, 2), even, between], dim=1))
        entered = self.enter((seen - self.mean) * self.scale)
        if self.context is not None:
            entered = entered + self.context(between.mean((-2, -1)))[:, :, None, None]
        features = F.relu(entered)
        for block in self.blocks:
            features = features + block(features)
        numbers: Tensor = self.leave(F.relu(self.last(features))).flatten(2).mT
        return numbers


def _chessboard(maps_BCHW: Tensor) -> Tensor:
    """(B, C, 1, N) the cells that are asked, in the order of `asked_cells`."""
    white, black = (maps_BCHW[..., first::2, first::2].flatten(2) for first in (0, 1))
    return torch.cat([white, black], dim=-1).unsqueeze(2)


def _block(block: nn.Module) -> nn.Sequential:
    return nn.Sequential(*(_as_convolution(part) if isinstance(part, nn.Linear) else part for part in block.children()))


def _as_convolution(layer: nn.Linear) -> nn.Conv2d:
    made = nn.Conv2d(layer.in_features, layer.out_features, 1)
    made.weight = nn.Parameter(layer.weight[:, :, None, None])
    made.bias = layer.bias
    return made


def example(graph: Graph, count: int = 2) -> Tensor:
    """Noise of the size of the pictures."""
    return torch.from_numpy(_noise(graph.size, count))


def _noise(size: tuple[int, int], count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, size[1], size[0], 3)).astype(np.uint8)
