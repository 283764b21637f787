"""Which pixels place a picture: how far the predicted pose moves with each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from placecell.camera import Camera

_NOISE = 0.15
"""Of SmoothGrad, as a share of a picture's range of values; the paper finds 0.1 to 0.2 best."""
_FINEST_PX = 640
"""Rays of lenses are followed at most at this size; a saliency has no finer detail than the network's input."""


def saliency_of(
    network: nn.Module,
    images_B3HW: Tensor,
    depth_B3HW: Tensor | None = None,
    *,
    length: float = 1.0,
    smooth: int = 0,
    seed: int = 0,
) -> Tensor:
    """How much each pixel moves the pose that a network predicts: (B, H, W), at least 0, exactly 0 where it ignores.

    S(u, v) = max_c ‖∂(x / length, ω) / ∂I_c(u, v)‖, after Simonyan et al. 2014 and the PoseNet papers. They take the
    gradient of the loss, which needs the truth; this is the Jacobian of the answer itself, centre x and turn ω (rad,
    camera axes) alike, which any picture has. The network sees the pictures as in use: no dropout, no gradient is left
    in its parameters, and its modes are as before.

    Args:
        network: pictures in, list of answers out whose first holds a centre (B, 3) and a rotation (B, 3, 3).
        depth_B3HW: encoded depth for networks of two streams; the saliency is that of the picture.
        length: the distance in scene units that weighs as much as a radian.
        smooth: average the Jacobian over so many noisy copies (SmoothGrad, Smilkov et al. 2017); 0 for none.
        seed: of that noise.
    """
    with _in_use(network), torch.inference_mode(False), torch.enable_grad():
        # Clones, as what was made in inference mode takes no part in gradients.
        images, depth = images_B3HW.detach().clone(), None if depth_B3HW is None else depth_B3HW.detach().clone()
        jacobians = (_jacobian(network, copy, depth, length) for copy in _copies(images, smooth, seed))
        total = sum(jacobians, start=torch.zeros((), device=images.device))
        found: Tensor = torch.linalg.vector_norm(total / max(smooth, 1), dim=0).amax(dim=1)
        return found


def on_picture(saliency: NDArray[np.float32], seen: Camera, camera: Camera) -> NDArray[np.float32]:
    """A saliency (h, w) of what camera `seen` sees, on the picture (H, W) that `camera` took at the same place.

    Pixels that `seen` does not see are 0. Inverts `resample.resample(image, camera, seen)`.
    """
    scale = min(1.0, _FINEST_PX / max(camera.width, camera.height))
    coarse = camera.resized(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))
    pixels = seen.project(coarse.rays(coarse.pixel_centres))
    # Up to the outer half of a border pixel the border is repeated, beyond it nothing was seen.
    u_px, v_px = np.moveaxis(np.nan_to_num(pixels - 0.5, nan=-1e4).clip(-1e4, 1e4).astype(np.float32), -1, 0)
    found = cv2.remap(saliency.astype(np.float32), u_px, v_px, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    found = np.where(seen.contains(pixels), found, np.float32(0))
    size = (camera.width, camera.height)
    return np.asarray(cv2.resize(found, size, interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _jacobian(network: nn.Module, images: Tensor, depth: Tensor | None, length: float) -> Tensor:
    """(6, B, 3, H, W) of x / length and ω; a picture's answer depends on that picture alone."""
    images.requires_grad_(True)
    centre, rotation, *_ = (network(images) if depth is None else network(images, depth))[0]
    moved = torch.cat([centre / length, _turn_from_here(rotation)], dim=1).sum(dim=0)
    rows = [
        torch.autograd.grad(value, images, retain_graph=True, allow_unused=True)[0] if value.requires_grad else None
        for value in moved
    ]
    return torch.stack([torch.zeros_like(images) if row is None else row for row in rows]).detach()


def _turn_from_here(rotation_B33: Tensor) -> Tensor:
    """(B, 3) zeros whose gradient is that of ω in R exp([ω]×): the skew part of R̂ᵀ R with R̂ held fast."""
    relative = rotation_B33.detach().transpose(1, 2) @ rotation_B33
    skew = (relative - relative.transpose(1, 2)) / 2
    return torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], dim=1)


def _copies(images: Tensor, smooth: int, seed: int) -> Iterator[Tensor]:
    """The pictures, or `smooth` copies of them with noise."""
    if smooth == 0:
        yield images
        return
    # Drawn on the processor, so that a seed means the same noise on any device.
    generator = torch.Generator().manual_seed(seed)
    spread = _NOISE * (images.amax(dim=(1, 2, 3), keepdim=True) - images.amin(dim=(1, 2, 3), keepdim=True))
    for _ in range(smooth):
        yield images + spread * torch.randn(images.shape, generator=generator).to(images)


@contextmanager
def _in_use(network: nn.Module) -> Iterator[None]:
    """The network as it answers, every module back in its own mode afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.backends.cudnn.flags(enabled=False):  # whose LSTM has gradients in training mode only
            yield
    finally:
        for module, training in modes:
            module.training = training
