"""Pictures as the encoder sees them, and the cells it describes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from placecell.backbones import picture_tensor
from placecell.families.coordinates.cells import camera_seen as camera_seen
from placecell.families.coordinates.cells import cell_pixels as cell_pixels
from placecell.families.coordinates.encoder import Encoder


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
