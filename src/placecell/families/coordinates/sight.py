"""Pictures as the encoder sees them, and the cells it describes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from placecell.backbones import picture_tensor
from placecell.camera import Camera
from placecell.families.coordinates.encoder import MIDDLE_PX, STRIDE, Encoder
from placecell.pose import Array

_MOST_CELLS = 4
"""Times as many as a training picture has; what a wider picture shows beyond is cut off."""


def cell_pixels(camera: Camera) -> Array:
    """(N, 2) where the whole cells of a picture look, row by row."""
    columns, rows = np.meshgrid(np.arange(camera.width // STRIDE), np.arange(camera.height // STRIDE))
    return np.asarray(np.stack([columns, rows], axis=-1).reshape(-1, 2) * STRIDE + MIDDLE_PX, np.float64)


def described(encoder: Encoder, image: NDArray[np.uint8], precision: str) -> NDArray[np.float32]:
    """(N, C) what the cells of a picture (H, W, 3) look like, row by row; `precision` fp32 or bf16."""
    device = next(encoder.parameters()).device
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, precision == "bf16"):
        features = encoder(picture_tensor(image[None]).to(device))
    found: NDArray[np.float32] = features[0].flatten(1).T.cpu().numpy()
    return found


def overall(encoder: Encoder, features_NC: NDArray[np.float32]) -> NDArray[np.float32]:
    """(G,) what a picture looks like as a whole: the mean of its cells' features of stride 16."""
    mean: NDArray[np.float32] = features_NC[:, -encoder.coarse :].mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def camera_seen(camera: Camera, usual: Camera) -> Camera:
    """The pinhole at the place of any camera with as many pixels a radian as the `usual` one, on which a head has
    learned how large things look; whole cells, and no more than `_MOST_CELLS` times as many of them."""
    lens = camera.pinhole
    width, height = round(camera.width * usual.fx / camera.fx), round(camera.height * usual.fy / camera.fy)
    lens = lens.resized(max(width, STRIDE), max(height, STRIDE))
    most = _MOST_CELLS * usual.width * usual.height
    shrink = min(1.0, (most / (lens.width * lens.height)) ** 0.5)
    width, height = (max(1, int(shrink * side) // STRIDE) * STRIDE for side in (lens.width, lens.height))
    return lens.cropped((lens.width - width) // 2, (lens.height - height) // 2, width, height)
