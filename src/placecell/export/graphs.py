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
from torch import Tensor, nn

from placecell.backbones import MEAN, STD
from placecell.errors import MapError
from placecell.families.coordinates.encoder import Encoder, doubled
from placecell.families.coordinates.head import Head
from placecell.families.coordinates.localizer import CoordinatesMap
from placecell.families.regression.alignment import Alignment
from placecell.families.regression.localizer import RegressionMap, size_seen
from placecell.families.regression.network import PoseNetwork
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
    if found.family.passes:
        raise MapError("maps that answer by passes with dropout are not exported; build one without --passes")
    head = found.network.head
    if isinstance(head, Alignment):
        tensors = {key: getattr(head, key).cpu().numpy() for key in ("rays", "depth", "middle")}
        size = size_seen(found.camera, found.family)
        return Graph(AlignGraph(found.network).eval(), size, False, ("cells",), "align", tensors, ("numbers",))
    one_pass = found.family.inference == "one-pass"
    size = (found.camera.width, found.camera.height) if one_pass else size_seen(found.camera, found.family)
    network = PoseGraph(found.network, one_pass).eval()
    return Graph(network, size, False, ("centre", "rotation"), "pose", {}, ("head.centre", "head.rotation"))


def _of_coordinates(found: CoordinatesMap) -> Graph:
    if found.gate is not None:
        raise MapError("maps of several experts are not exported; build one with --experts 1")
    if not isinstance(found.head, Head):
        raise MapError(f"a head of {type(found.head).__name__} is not exported")
    tensors = {"centres": found.head.centres_K3.cpu().numpy(), "size": found.head.size.cpu().numpy()}
    size = tuple(side // WHOLE_PX * WHOLE_PX for side in (found.camera.width, found.camera.height))
    network = CellsGraph(found.encoder, found.head).eval()
    return Graph(network, (size[0], size[1]), True, ("cells",), "cells", tensors, ("leave",))


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
        return images_BHW3.permute(0, 3, 1, 2).float() * self.scale - self.shift


class AlignGraph(nn.Module):
    """A network with an align head, up to the five numbers of each cell."""

    def __init__(self, network: PoseNetwork) -> None:
        super().__init__()
        head: Any = network.head
        self.normalised, self.backbone = Normalised(), network.backbone
        self.mix, self.numbers, self.tap = head.mix, head.numbers, head.taps[0]

    def forward(self, images: Tensor) -> Tensor:
        """(B, N, 5)."""
        maps = self.backbone(self.normalised(images))
        numbers: Tensor = self.numbers(self.mix(maps[self.tap])).flatten(2).mT
        return numbers


class PoseGraph(nn.Module):
    """A network whose head says a centre and the numbers of a rotation; of one picture each, or of its windows."""

    def __init__(self, network: PoseNetwork, one_pass: bool) -> None:
        super().__init__()
        self.normalised, self.network, self.one_pass = Normalised(), network, one_pass
        self.head = network.head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3) in units of the map's scale, and (B, K); of W windows (B W, ...)."""
        seen = self.normalised(images)
        maps = dict(self.network.backbone(seen))
        if self.one_pass:
            windows = list(self.network.whole_windows({tap: maps[tap] for tap in self.head.taps}))
            maps = {tap: torch.cat([window[tap] for window in windows]) for tap in self.head.taps}
        numbers = self.head(maps)
        return numbers.centre_B3, numbers.raw_BK


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
        """(B, N, 5 + clusters), as `decoding.points_of` reads them."""
        maps = self.backbone(self.normalised(images))
        fine, even, coarse = (maps[tap] for tap in self.taps)
        between = doubled(doubled(coarse).mT).mT
        seen = torch.cat([F.pixel_unshuffle(fine, 2), even, between], dim=1)
        entered = self.enter((seen - self.mean) * self.scale)
        if self.context is not None:
            entered = entered + self.context(between.mean((-2, -1)))[:, :, None, None]
        features = F.relu(entered)
        for block in self.blocks:
            features = features + block(features)
        numbers: Tensor = self.leave(F.relu(self.last(features))).flatten(2).mT
        return numbers


def _block(block: nn.Module) -> nn.Sequential:
    return nn.Sequential(*(_as_convolution(part) if isinstance(part, nn.Linear) else part for part in block.children()))


def _as_convolution(layer: nn.Linear) -> nn.Conv2d:
    made = nn.Conv2d(layer.in_features, layer.out_features, 1)
    made.weight = nn.Parameter(layer.weight[:, :, None, None])
    made.bias = layer.bias
    return made


def example(graph: Graph, count: int = 2) -> Tensor:
    """Noise of the size of the pictures."""
    width, height = graph.size
    drawn = np.random.default_rng(0).integers(0, 256, (count, height, width, 3))
    return torch.from_numpy(drawn.astype(np.uint8))
