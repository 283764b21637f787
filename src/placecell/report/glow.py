"""A saliency laid over its picture: grey and dim where nothing depends on it, glowing where much does."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_FULL = 99.5
"""Percentile of a saliency that glows in full; single pixels above it would leave the rest dark."""
_DIM = 0.45


def glow(image: NDArray[np.uint8], saliency: NDArray[np.float32]) -> NDArray[np.uint8]:
    """RGB (H, W, 3) of a picture and its saliency (H, W), each picture by its own scale.

    Raises:
        ValueError: they are not of one size.
    """
    if image.shape[:2] != saliency.shape:
        raise ValueError(f"the picture is {image.shape[:2]}, its saliency {saliency.shape}")
    # Seen from afar, as saliency is grainy and the eye wants regions.
    sigma = max(image.shape[:2]) / 160
    smooth = cv2.GaussianBlur(saliency.astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    top = float(np.percentile(smooth, _FULL))
    level = np.clip(smooth / top, 0, 1) if top > 0 else np.zeros_like(smooth)
    warm = cv2.cvtColor(
        cv2.applyColorMap((255 * level).round().astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB
    )
    grey = _DIM * cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    share = np.sqrt(level)[..., None]
    mixed = (1 - share) * grey[..., None] + share * (0.7 * warm + 0.3 * image)
    return np.asarray(mixed.round(), dtype=np.uint8)
