"""One forest: several trees that answer together, and the picture of what they answer, which a second one reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from placecell.families.coordinates.forest.features import Pixels, Planes
from placecell.families.coordinates.forest.growing import Tree
from placecell.families.coordinates.forest.leaves import Leaves, Remembered
from placecell.parallel import in_parallel

Mask = NDArray[np.bool_]

_CELL_PX = 4
"""Where a picture's pixels look is asked once in squares of so many pixels."""
_SMOOTH = 5
"""Side of the square of such cells whose median is taken, as Brachmann et al. smooth theirs."""
_FARTHEST = 16_000
"""Thousandths of the unit from the anchor that a coordinate may be: two of them differ by less than 16 bits hold."""


@dataclass(frozen=True, eq=False)
class Stage:
    """Trees with what their leaves remember."""

    trees: tuple[Tree, ...]
    leaves: tuple[Leaves, ...]
    """By tree."""

    def modes(self, planes: Planes, pixels: Pixels, count: int, bandwidth: float) -> Remembered:
        """What all trees say of pixels, `count` modes each."""
        by_tree = [
            leaves.modes(tree.fall(planes, pixels), count, bandwidth)
            for tree, leaves in zip(self.trees, self.leaves, strict=True)
        ]
        return together(by_tree)

    def only(self, wanted: Mask) -> Stage:
        """Some of the trees; all of them where none is wanted."""
        chosen = np.flatnonzero(wanted) if wanted.any() else range(len(self.trees))
        return Stage(tuple(self.trees[i] for i in chosen), tuple(self.leaves[i] for i in chosen))

    def read(self, planes: Planes, unit: float, known: Mask | None = None, *, threads: int = 1) -> Planes:
        """The pictures with where this forest says that they look, for a second one: auto-context.

        Brachmann et al. 2016 smooth the coordinate image of the first forest by the median. Our reading of the rest:
        the strongest mode of each tree, the median over the trees, thousandths of `unit` from the anchor.

        Args:
            known: (trees, N) which picture a tree has learned from. Asking it would be cheating: others answer where
                there are some, so that the second forest learns from answers as queries get them.
        """
        count, _, height, width = planes.values.shape
        values = np.zeros((count, 7, height, width), np.int16)
        values[:, :3] = planes.values[:, :3]

        def answer(picture: int) -> NDArray[np.int16]:
            stage = self if known is None else self.only(~known[:, picture])
            return stage._coordinates(planes, picture, unit)

        for picture, found in enumerate(in_parallel(answer, range(count), threads)):
            values[picture, 3:6] = found
        return Planes(planes.camera, values, edge=2 * _FARTHEST)

    def _coordinates(self, planes: Planes, picture: int, unit: float) -> NDArray[np.int16]:
        """(3, h, w) where a picture looks, in thousandths of `unit`."""
        height, width = planes.values.shape[2:]
        rows, columns = np.arange(_CELL_PX // 2, height, _CELL_PX), np.arange(_CELL_PX // 2, width, _CELL_PX)
        place = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2).astype(np.float32) + np.float32(0.5)
        focal = np.full(len(place), planes.camera.fx, np.float32)
        pixels = Pixels(np.full(len(place), picture, np.int32), place[:, 0], place[:, 1], focal)
        strongest = np.stack(list(self._strongest(planes, pixels)))
        image = np.median(strongest, axis=0).reshape(len(rows), len(columns), 3).transpose(2, 0, 1)
        smooth = np.stack([cv2.medianBlur(np.ascontiguousarray(part, np.float32), _SMOOTH) for part in image])
        row = np.minimum(np.arange(height) // _CELL_PX, len(rows) - 1)
        column = np.minimum(np.arange(width) // _CELL_PX, len(columns) - 1)
        whole = smooth[:, row][:, :, column]
        return np.clip(np.round(1000 * whole / unit), -_FARTHEST, _FARTHEST).astype(np.int16)

    def _strongest(self, planes: Planes, pixels: Pixels) -> Iterator[NDArray[np.float32]]:
        """(M, 3) by tree."""
        for tree, leaves in zip(self.trees, self.leaves, strict=True):
            yield leaves.modes(tree.fall(planes, pixels), 1, 1.0).points[:, 0]


def together(answers: Sequence[Remembered]) -> Remembered:
    """What several say of the same pixels, side by side; the weights of a pixel sum to at most 1."""
    points, weight, covariance = (np.concatenate(part, axis=1) for part in zip(*answers, strict=True))
    return Remembered(points, (weight / len(answers)).astype(np.float32), covariance)
