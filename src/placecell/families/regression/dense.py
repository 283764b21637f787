"""Dense inference: the mean of what a network says of many windows of one picture (Dense PoseNet). Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.families.regression.config import Regression

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Window:
    """A part of a picture at the canonical camera that a network looks at."""

    left: int
    top: int
    camera: Camera
    """Intrinsics of the part: the principal point moves with it."""

    def cut(self, pictures: NDArray[T]) -> NDArray[T]:
        """(B, h, w, ...) of pictures (B, H, W, ...), as a view."""
        return pictures[:, self.top : self.top + self.camera.height, self.left : self.left + self.camera.width]


def central(camera: Camera, crop_px: int) -> Window:
    """The square window in the middle of the picture; all of it where `crop_px` is 0."""
    if not crop_px:
        return Window(0, 0, camera)
    return _window(camera, crop_px, (camera.width - crop_px) // 2, (camera.height - crop_px) // 2)


def looks(camera: Camera, family: Regression) -> list[Window]:
    """Where a network of these settings looks at a picture of the canonical camera."""
    if family.inference == "dense":
        return spread(camera, family.crop, family.crops)
    return [central(camera, 0 if family.inference == "one-pass" else family.crop)]


def spread(camera: Camera, crop_px: int, count: int) -> list[Window]:
    """About `count` square windows, evenly over the picture; the outer ones touch its borders.

    The paper takes 128 uniformly spaced crops and does not say in which grid. Ours spaces them alike in both directions
    as far as whole numbers allow, and never twice at one place.
    """
    free_x, free_y = camera.width - crop_px, camera.height - crop_px
    columns = min(max(round(math.sqrt(count * (free_x + 1) / (free_y + 1))), 1), count, free_x + 1)
    rows = min(max(round(count / columns), 1), free_y + 1)
    columns = min(max(round(count / rows), 1), free_x + 1)
    return [_window(camera, crop_px, left, top) for top in _even(free_y, rows) for left in _even(free_x, columns)]


def _window(camera: Camera, crop_px: int, left: int, top: int) -> Window:
    return Window(left, top, camera.cropped(left, top, crop_px, crop_px))


def _even(free_px: int, count: int) -> list[int]:
    if count == 1:
        return [free_px // 2]
    return [round(free_px * index / (count - 1)) for index in range(count)]
