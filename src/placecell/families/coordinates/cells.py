"""The cells of a picture: where they look, and through which camera. Imports no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.pose import Array

STRIDE = 8
"""Pixels of a cell's side."""
MIDDLE_PX = 1.0
"""Where in its square of 8 pixels a cell looks, from the left and from the top; see `encoder.Encoder`. By its gradients
the ImageNet MobileNetV2 looks at -0.7 in maps of stride 8, and at 1.7 in folded ones of stride 4."""
_MOST_CELLS = 4
"""Times as many as a training picture has; what a wider picture shows beyond is cut off."""


def cell_pixels(camera: Camera) -> Array:
    """(N, 2) where the whole cells of a picture look, row by row."""
    columns, rows = np.meshgrid(np.arange(camera.width // STRIDE), np.arange(camera.height // STRIDE))
    return np.asarray(np.stack([columns, rows], axis=-1).reshape(-1, 2) * STRIDE + MIDDLE_PX, np.float64)


def asked_cells(camera: Camera) -> NDArray[np.intp]:
    """(N,) which cells of a picture a head is asked about, as rows of `cell_pixels`: every second, as on a chessboard.

    Neighbours say nearly the same, so half of them place a picture as well as all, and the head is most of the work.
    First those of even rows and columns, then those of odd ones.
    """
    columns, rows = camera.width // STRIDE, camera.height // STRIDE
    numbers = np.arange(rows * columns).reshape(rows, columns)
    return np.concatenate([numbers[::2, ::2].ravel(), numbers[1::2, 1::2].ravel()])


def camera_seen(camera: Camera, usual: Camera, *, whole: int = STRIDE) -> Camera:
    """The pinhole at the place of any camera with as many pixels a radian as the `usual` one, on which a head has
    learned how large things look; sides of whole cells, or of multiples of `whole` pixels, and no more than
    `_MOST_CELLS` times as many of them."""
    lens = camera.pinhole
    width, height = round(camera.width * usual.fx / camera.fx), round(camera.height * usual.fy / camera.fy)
    lens = lens.resized(max(width, whole), max(height, whole))
    most = _MOST_CELLS * usual.width * usual.height
    shrink = min(1.0, (most / (lens.width * lens.height)) ** 0.5)
    width, height = (max(1, int(shrink * side) // whole) * whole for side in (lens.width, lens.height))
    return lens.cropped((lens.width - width) // 2, (lens.height - height) // 2, width, height)
