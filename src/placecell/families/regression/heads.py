"""From feature maps to the numbers of a pose: the heads of the PoseNet line.

A head reads maps of the backbone, makes one vector of them (the pose feature), and two linear layers make the centre
and the numbers of the rotation of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from placecell.backbones import Tap
from placecell.errors import MapError
from placecell.families.regression.config import Regression, RotationOutput
from placecell.families.regression.hourglass import Hourglass
from placecell.geometry_torch import matrix_from_6d, matrix_from_9d, matrix_from_log_quat, matrix_from_quat

ROTATIONS = {
    "quaternion": (matrix_from_quat, (1.0, 0.0, 0.0, 0.0)),
    "log-quaternion": (matrix_from_log_quat, (0.0, 0.0, 0.0)),
    "6d": (matrix_from_6d, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
    "9d": (matrix_from_9d, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)),
}
"""How a network may emit a rotation: the rotation of the numbers, and the numbers of no rotation."""

_CENTRE_SPREAD = 0.02  # of the first weights: Caffe's 0.5 m, in scenes of some 30 m, in units of the map's scale
_GRID_CHANNELS = 64
_LSTM_ROWS = 32
_LSTM_HIDDEN = 256
_AUXILIARY_HIDDEN = 1024
_AUXILIARY_CHANNELS = 128
_AUXILIARY_DROPOUT = 0.7

Grid = tuple[int, int]
"""Rows and columns."""


class Numbers(NamedTuple):
    """What a head says."""

    centre_B3: Tensor
    """In units of the map's scale."""
    raw_BK: Tensor
    """The rotation as the network emits it."""
    feature_BD: Tensor


class Head(nn.Module):
    """Maps of the backbone in, centre and rotation numbers out."""

    def __init__(self, body: nn.Module, taps: tuple[str, ...], rotation: RotationOutput) -> None:
        """`body` makes a vector of the maps named `taps`.

        The rotation begins at none, that is at the anchor's, where Caffe's PoseNet begins with a quaternion of zeros.
        """
        super().__init__()
        self.body, self.taps = body, taps
        self.features, rest = int(body.features), torch.tensor(ROTATIONS[rotation][1])  # type: ignore[arg-type]
        self.centre, self.rotation = nn.Linear(self.features, 3), nn.Linear(self.features, len(rest))
        nn.init.normal_(self.centre.weight, std=_CENTRE_SPREAD)
        nn.init.normal_(self.rotation.weight, std=0.01)
        nn.init.zeros_(self.centre.bias)
        with torch.no_grad():
            self.rotation.bias.copy_(rest)

    def forward(self, maps: Mapping[str, Tensor]) -> Numbers:
        """The numbers, in full precision under autocast too: 8 bits would round them to centimetres."""
        feature = self.body(*(maps[tap] for tap in self.taps))
        with torch.autocast(feature.device.type, enabled=False):
            feature = feature.to(self.centre.weight.dtype)
            return Numbers(self.centre(feature), self.rotation(feature), feature)


class Pooled(nn.Module):
    """PoseNet 2015: the mean over the picture, FC, ReLU, dropout; Bayesian PoseNet drops from the map as well."""

    def __init__(self, channels: int, hidden: int, dropout: float, map_dropout: float = 0.0) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, hidden)
        self.dropout = nn.Dropout(dropout)
        self.map_dropout = nn.Dropout(map_dropout)
        self.features = hidden
        _xavier(self.fc)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """(B, hidden)."""
        feature: Tensor = self.dropout(F.relu(self.fc(self.map_dropout(map_BCHW).mean((-2, -1)))))
        return feature


class GridBody(nn.Module):
    """The default: a 1x1 convolution to a few channels, every cell kept apart, then two FC with ReLU and dropout.

    Where a feature stands in the picture says most about the pose, and a mean over the picture forgets it.
    """

    def __init__(self, channels: int, grid: Grid, hidden: int, dropout: float) -> None:
        super().__init__()
        self.grid = grid
        self.squeeze = nn.Conv2d(channels, _GRID_CHANNELS, 1)
        self.fc1 = nn.Linear(_GRID_CHANNELS * grid[0] * grid[1], hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.dropout1, self.dropout2 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.features = hidden

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """(B, hidden)."""
        cells = _on_grid(F.relu(self.squeeze(map_BCHW)), self.grid).flatten(1)
        feature: Tensor = self.dropout2(F.relu(self.fc2(self.dropout1(F.relu(self.fc1(cells))))))
        return feature


class Scanned(nn.Module):
    """PoseLSTM (Walch et al. 2017): a vector of `length` seen as rows of 32, scanned from its four sides.

    Two bidirectional LSTMs of hidden size 256: one along the 32 rows, one along the columns. Their last hidden
    states, 4 of 256, are the feature, after dropout. The states begin at zero (one public version draws them, and
    then answers the same picture differently each time).
    """

    def __init__(self, length: int, dropout: float) -> None:
        super().__init__()
        if length % _LSTM_ROWS:
            raise MapError(
                f"the lstm head reads its vector as {_LSTM_ROWS} rows; hidden {length} is no multiple of that"
            )
        self.shape = (_LSTM_ROWS, length // _LSTM_ROWS)
        self.across = nn.LSTM(self.shape[1], _LSTM_HIDDEN, batch_first=True, bidirectional=True)
        self.down = nn.LSTM(self.shape[0], _LSTM_HIDDEN, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.features = 4 * _LSTM_HIDDEN

    def forward(self, vector_BD: Tensor) -> Tensor:
        """(B, 1024)."""
        picture = vector_BD.reshape(-1, *self.shape)
        last = [lstm(side)[1][0] for lstm, side in ((self.across, picture), (self.down, picture.mT.contiguous()))]
        feature: Tensor = self.dropout(torch.cat([*last[0], *last[1]], dim=-1))
        return feature


class Auxiliary(nn.Module):
    """GoogLeNet's side branch: averages of 5x5 cells at stride 3, 1x1 convolution to 128, ReLU, FC 1024, ReLU."""

    def __init__(self, channels: int, grid: Grid, dropout: float) -> None:
        super().__init__()
        self.kernel = min(5, *grid)
        self.grid = ((grid[0] - self.kernel) // 3 + 1, (grid[1] - self.kernel) // 3 + 1)
        self.conv = nn.Conv2d(channels, _AUXILIARY_CHANNELS, 1)
        self.fc = nn.Linear(_AUXILIARY_CHANNELS * self.grid[0] * self.grid[1], _AUXILIARY_HIDDEN)
        self.dropout = nn.Dropout(dropout)
        self.features = _AUXILIARY_HIDDEN
        _xavier(self.conv)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """(B, 1024)."""
        cells = _on_grid(F.avg_pool2d(map_BCHW, self.kernel, stride=3), self.grid)
        feature: Tensor = self.dropout(F.relu(self.fc(F.relu(self.conv(cells)).flatten(1))))
        return feature


class Chain(nn.Sequential):
    """Bodies one after the other; the last one's feature."""

    def __init__(self, *bodies: nn.Module) -> None:
        super().__init__(*bodies)
        self.features = bodies[-1].features


def main_head(config: Regression, taps: Mapping[str, Tap], grids: Mapping[str, Grid]) -> Head:
    """The head of the settings for maps `taps`, fine to coarse, of so many rows and columns of cells as `grids` say.

    Raises:
        MapError: the backbone has no maps that the hourglass can go back through, or the lstm's width is no multiple
            of 32.
    """
    last, tap = list(taps.items())[-1]
    body: nn.Module
    if config.head == "hourglass":
        chain = _pyramid(taps)
        channels = [taps[name].channels for name in chain]
        body = Hourglass(channels, grids[chain[2]], config.hidden, config.dropout)
        return Head(body, chain, config.rotation)
    if config.head == "grid":
        body = GridBody(tap.channels, grids[last], config.hidden, config.dropout)
        return Head(body, (last,), config.rotation)
    if config.head == "lstm":
        body = Chain(
            Pooled(tap.channels, config.hidden, 0.0, config.map_dropout), Scanned(config.hidden, config.dropout)
        )
    else:
        body = Pooled(tap.channels, config.hidden, config.dropout, config.map_dropout)
    return Head(body, (last,), config.rotation)


def auxiliary_heads(config: Regression, taps: Mapping[str, Tap], grids: Mapping[str, Grid]) -> list[Head]:
    """PoseNet's two heads on middle maps: after inception4a and 4d, or after the last two maps of strides 8 and 16.

    Their dropout is 0.7, as in the paper, where the settings have any; those of the lstm head scan a 32x32 vector.
    """
    middle = [name for name in ("inception4a", "inception4d") if name in taps]
    if len(middle) < 2:
        middle = [name for name, tap in taps.items() if tap.stride in (8, 16)][-2:]
    dropout = _AUXILIARY_DROPOUT if config.dropout else 0.0
    scan = config.head == "lstm"
    heads = []
    for name in middle:
        body: nn.Module = Auxiliary(taps[name].channels, grids[name], 0.0 if scan else dropout)
        if scan:
            body = Chain(body, Scanned(_AUXILIARY_HIDDEN, dropout))
        heads.append(Head(body, (name,), config.rotation))
    return heads


def _pyramid(taps: Mapping[str, Tap]) -> tuple[str, ...]:
    """The last map of each of the strides 4, 8, 16, 32."""
    by_stride = {tap.stride: name for name, tap in taps.items()}
    missing = [stride for stride in (4, 8, 16, 32) if stride not in by_stride]
    if missing:
        raise MapError(f"the hourglass head goes back through strides 4 to 32; the backbone has no map of {missing}")
    return tuple(by_stride[stride] for stride in (4, 8, 16, 32))


def _on_grid(map_BCHW: Tensor, grid: Grid) -> Tensor:
    """The map with the cells that the layers behind it were made for."""
    return map_BCHW if tuple(map_BCHW.shape[-2:]) == grid else F.adaptive_avg_pool2d(map_BCHW, grid)


def _xavier(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
