"""The network of a regression map: backbone, heads, and what they say as poses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from placecell.backbones import Backbone, Tap, backbone
from placecell.families.regression.alignment import STRIDE, Aligned, Alignment, Surface
from placecell.families.regression.config import Regression
from placecell.families.regression.covariance import CovarianceHead
from placecell.families.regression.heads import ROTATIONS, Grid, Head, auxiliary_heads, main_head

_AUXILIARY_WEIGHT = 0.3
Maps = Mapping[str, Tensor]


class Answer(NamedTuple):
    """What a head says of B pictures."""

    centre_B3: Tensor
    """In the anchor frame, in the unit of the scene."""
    rotation_B33: Tensor
    """`anchor_from_cam`."""
    raw_BK: Tensor
    """The numbers of the rotation as the network emits them, before they are made a rotation."""
    weight: float
    """Of this answer in the loss: 1, or 0.3 for an auxiliary head (caffe-posenet)."""
    feature_BD: Tensor
    """The pose feature: what the last layer reads."""
    surface: Surface | None = None
    """What the align head says of the cells of the pictures."""
    whitening_B66: Tensor | None = None
    """A of the covariance (AᵀA)⁻¹ that the network expects its error to have; see `covariance`."""

    def parts(self, count: int) -> list[Answer]:
        """The answers of a batch in `count` equal parts, without what is known of cells."""
        size = len(self.centre_B3) // count
        tensors: dict[str, Any] = {name: value for name, value in self._asdict().items() if isinstance(value, Tensor)}
        return [
            self._replace(surface=None, **{name: value[i : i + size] for name, value in tensors.items()})
            for i in range(0, size * count, size)
        ]


class PoseNetwork(nn.Module):
    """Pictures to poses in the anchor frame.

    With `config.depth` a second backbone reads the coded depth, and the last maps of both are joined channel by channel
    before the head: our reading of how Li et al. 2018 fuse their two streams. `s_x` and `s_q` are the learned weights
    of the losses that have them.
    """

    def __init__(self, config: Regression, scale: float, *, size: tuple[int, int] | None = None) -> None:
        """A network for centres of about `scale` and pictures of `size`.

        Args:
            scale: RMS distance of the training centres from the anchor, in the unit of the scene.
            size: width and height of the pictures, which the heads that know where things are are made for; other
                pictures are averaged to the same cells. None: the crop, or 4:3 of the short side.

        Raises:
            PlacecellError: the backbone is unknown, or does not go with the head.
        """
        super().__init__()
        self.scale, self.crop = scale, config.crop
        self.backbone = backbone(config.backbone)
        self.depth_backbone = backbone(config.backbone) if config.depth else None
        taps = dict(self.backbone.taps)
        self.last = list(taps)[-1]
        if self.depth_backbone is not None:
            tap = taps[self.last]
            taps[self.last] = Tap(tap.channels + self.depth_backbone.taps[self.last].channels, tap.stride)
        grids = _grids(self.backbone, size or _usual_size(config))
        self.taps = taps
        self.head = _head(config, taps, grids)
        self.auxiliary = nn.ModuleList(auxiliary_heads(config, taps, grids) if config.auxiliary else [])
        self.from_raw = ROTATIONS[config.rotation][0]
        self.together = config.loss == "likelihood"
        evidence = 2 if isinstance(self.head, Alignment) else 0
        self.covariance = CovarianceHead(self.head.features + evidence, scale) if config.covariance != "none" else None
        if config.loss in ("learned", "reprojection"):
            self.s_x = nn.Parameter(torch.tensor(float(config.s_x)))
            self.s_q = nn.Parameter(torch.tensor(float(config.s_q)))

    def forward(self, images_B3HW: Tensor, depth_B3HW: Tensor | None = None) -> list[Answer]:
        """The answer of the head, then in training those of the auxiliary heads."""
        maps = self._maps(images_B3HW, depth_B3HW)
        answers = [self._answer(self.head, maps, 1.0, main=True)]
        if self.training:
            answers += [self._answer(head, maps, _AUXILIARY_WEIGHT) for head in self.auxiliary]
        return answers

    def passes(self, images_B3HW: Tensor, depth_B3HW: Tensor | None, count: int, seed: int) -> list[Answer]:
        """So many answers a picture, each with other numbers dropped (Bayesian PoseNet); the encoder runs once.

        Dropout is in the head alone, so the maps are the same for all passes.
        """
        maps = self._maps(images_B3HW, depth_B3HW)
        told = {tap: maps[tap].repeat_interleave(count, dim=0) for tap in self.head.taps}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            together = self._answer(dropping(self.head), told, 1.0, main=True)
        return together.parts(len(images_B3HW))

    def maps(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """What the head reads of pictures."""
        maps = self._maps(images_B3HW, None)
        return {tap: maps[tap] for tap in self.head.taps}

    def drop_unused(self) -> None:
        """Drop what of the encoder no head reads; weights of the whole encoder have to be there before."""
        self.backbone.cut(self.head.taps[-1])

    def windows(self, images_B3HW: Tensor, depth_B3HW: Tensor | None = None) -> list[Answer]:
        """An answer a window of `crop` pixels, a cell of the last map apart, with the backbone run once: row by row.

        This is not the answer of the cropped pictures: cells near a window's border see beyond it.

        Raises:
            ValueError: the settings have no crop, or the pictures are smaller than it.
        """
        if not self.crop:
            raise ValueError("one-pass inference needs a window; set crop")
        maps = self._maps(images_B3HW, depth_B3HW)
        windows = list(self.whole_windows({tap: maps[tap] for tap in self.head.taps}))
        if not windows:
            raise ValueError(f"pictures of {tuple(images_B3HW.shape[-2:])} are smaller than windows of {self.crop}")
        joined = {tap: torch.cat([window[tap] for window in windows]) for tap in self.head.taps}
        return self._answer(self.head, joined, 1.0, main=True).parts(len(windows))

    def _maps(self, images_B3HW: Tensor, depth_B3HW: Tensor | None) -> dict[str, Tensor]:
        if (depth_B3HW is None) != (self.depth_backbone is None):
            raise ValueError("a network of two streams takes pictures and depth; one of one stream pictures only")
        maps: dict[str, Tensor] = dict(self.backbone(images_B3HW))
        if self.depth_backbone is not None:
            maps[self.last] = torch.cat([maps[self.last], self.depth_backbone(depth_B3HW)[self.last]], dim=1)
        return maps

    def _answer(self, head: nn.Module, maps: Maps, weight: float, *, main: bool = False) -> Answer:
        """What a head says; of the main one with the covariance."""
        numbers, told = head(maps), None
        if isinstance(numbers, Aligned):
            centre, rotation, raw, feature, surface, misfit = numbers
            answer, told = Answer(centre, rotation, raw, weight, feature, surface), torch.cat([feature, misfit], dim=-1)
        else:
            rotation, told = self.from_raw(numbers.raw_BK), numbers.feature_BD
            answer = Answer(self.scale * numbers.centre_B3, rotation, numbers.raw_BK, weight, told)
        if self.covariance is None or not main:
            return answer
        # Learned beside the pose, the covariance must not move it.
        return answer._replace(whitening_B66=self.covariance(told if self.together else told.detach()))

    def whole_windows(self, maps: Maps) -> Iterator[dict[str, Tensor]]:
        """The whole windows of the maps; finer maps have several cells to one of the coarsest."""
        coarsest = self.taps[self.last].stride
        finer = {tap: coarsest // self.taps[tap].stride for tap in maps}
        cells = max(1, self.crop // coarsest)
        rows, columns = (min(maps[tap].shape[axis] // finer[tap] for tap in maps) for axis in (-2, -1))
        for row in range(rows - cells + 1):
            for column in range(columns - cells + 1):
                yield {
                    tap: map_BCHW[..., row * n : (row + cells) * n, column * n : (column + cells) * n]
                    for (tap, map_BCHW), n in zip(maps.items(), finer.values(), strict=True)
                }


def dropping(head: nn.Module) -> nn.Module:
    """A head with the same weights that drops numbers as in training; the head itself stays as it is."""
    shared: dict[int, object] = {id(value): value for value in (*head.parameters(), *head.buffers())}
    twin: nn.Module = deepcopy(head, shared)
    for module in twin.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    return twin


def _head(config: Regression, taps: Mapping[str, Tap], grids: Mapping[str, Grid]) -> Alignment | Head:
    if config.head != "align":
        return main_head(config, taps, grids)
    finest = next((name for name, tap in taps.items() if tap.stride == STRIDE), "")
    return Alignment(taps, config.hidden, grids.get(finest, (1, 1)), config.dropout)


def _grids(network: Backbone, size: tuple[int, int]) -> dict[str, Grid]:
    """Rows and columns of the maps of pictures of `size`; asked of the network, as each rounds in its own way."""
    network.eval()  # so that a blank picture leaves no trace in batch norms
    with torch.no_grad():
        maps = network(torch.zeros(1, 3, size[1], size[0]))
    network.train()
    return {tap: (map_BCHW.shape[-2], map_BCHW.shape[-1]) for tap, map_BCHW in maps.items()}


def _usual_size(config: Regression) -> tuple[int, int]:
    if config.crop:
        return config.crop, config.crop
    return round(config.short_side * 4 / 3), config.short_side
