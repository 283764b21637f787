"""From what a network says of a picture to the pose of its camera: RANSAC as it is in use."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from placecell.backbones import picture_tensor
from placecell.camera import Camera
from placecell.families.coordinates.dsac.expected import Ransac
from placecell.families.coordinates.dsac.fcn import STRIDE
from placecell.families.coordinates.dsac.hypotheses import sampled
from placecell.families.coordinates.dsac.optimum import errors, in_camera
from placecell.families.coordinates.dsac.scores import ScoreNetwork
from placecell.families.coordinates.dsac.shots import cell_pixels
from placecell.families.coordinates.dsac.sights import Depths, Pixels, Sight
from placecell.pnp import NOISE_PX, PnP, poses_of_halves, refine_pnp, scattered, solve_pnp
from placecell.pose import Array, Pose
from placecell.rigid import Rigid, refine_rigid, solve_rigid

_NOISE, _LEAST_NOISE = 0.2, 0.01
"""Of a coordinate where poses are made with depth, in units of the largest error: at first, and at least."""


def coordinates(network: nn.Module, image: NDArray[np.uint8]) -> Array:
    """(h, w, 3) where the cells of a picture (H, W, 3) lie, in the frame of the map."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        found = network(picture_tensor(image[None]).to(device))
    points: Array = found[0].movedim(0, -1).double().cpu().numpy()
    return points


def answered(
    network: nn.Module,
    points_hw3: Array,
    camera: Camera,
    ransac: Ransac,
    *,
    seen_hw3: Array | None = None,
    stride: int = STRIDE,
    runs: int = 1,
    seed: int = 0,
) -> PnP | Rigid:
    """The pose `map_from_cam` that most cells of a picture agree on, refined on all of these, with its covariance.

    `solve_pnp`, or `solve_rigid` where it is known what the cells show, finds it. Only a network with a `score` has a
    RANSAC of its own, that of training: its scores choose between `ransac.hypotheses` poses, and the refinement
    begins at the best. Cells count as noisy as the inliers turn out to be, and as independent.

    Args:
        seen_hw3: points in camera axes, NaN where there is no depth; without it poses are made by pixels.
        runs: as in `solve_pnp`, of poses by pixels.
    """
    points, pixels = points_hw3.reshape(-1, 3), cell_pixels(camera, stride).reshape(-1, 2)
    score = getattr(network, "score", None)
    first = None
    if score is not None:
        sight = Pixels.of(pixels, camera) if seen_hw3 is None else Depths.of(seen_hw3.reshape(-1, 3))
        height, width, _ = points_hw3.shape
        first = best_by_score(score, points, sight, ransac, (height, width), seed)
    if seen_hw3 is not None:
        seen = seen_hw3.reshape(-1, 3)
        known = np.isfinite(seen).all(axis=1)
        return _by_depth(points[known], seen[known], ransac.max_error, first, seed)
    found = _by_pixels(points, pixels, camera, ransac.max_error, first, seed)
    if found.world_from_cam is None or runs == 1:
        return found
    noise_px = max(found.sigma_px, NOISE_PX)
    told = points, pixels, camera
    others = poses_of_halves(*told, runs=runs - 1, max_error_px=ransac.max_error, noise_px=noise_px, seed=seed)
    return scattered(found, others)


def best_by_score(
    score: ScoreNetwork, points_N3: Array, sight: Sight, ransac: Ransac, size: tuple[int, int], seed: int
) -> Pose | None:
    """The hypothesis that a network of scores thinks best; None where there is no hypothesis."""
    points = torch.from_numpy(points_N3)
    generator = torch.Generator().manual_seed(seed)
    found = sampled(points, sight, ransac.hypotheses, max_error=ransac.max_error, generator=generator)
    if not len(found.rotation_H33):
        return None
    away = errors(sight, in_camera(points, (found.rotation_H33, found.centre_H3)))
    device = next(score.parameters()).device
    with torch.inference_mode():
        scores = score(away.to(device), ransac.max_error, size=size, alpha=ransac.alpha)
    best = int(scores.argmax())
    return Pose.nearest(np.column_stack([found.rotation_H33[best].numpy(), found.centre_H3[best].numpy()]))


def _by_pixels(points: Array, pixels: Array, camera: Camera, max_error_px: float, first: Pose | None, seed: int) -> PnP:
    if first is None:
        found = solve_pnp(points, pixels, camera, max_error_px=max_error_px, seed=seed)
    else:
        found = refine_pnp(points, pixels, camera, first, max_error_px=max_error_px)
    if found.world_from_cam is None:
        return found
    noise_px = max(found.sigma_px, NOISE_PX)
    return refine_pnp(points, pixels, camera, found.world_from_cam, max_error_px=max_error_px, noise_px=noise_px)


def _by_depth(points: Array, seen: Array, max_error: float, first: Pose | None, seed: int) -> Rigid:
    noise = _NOISE * max_error
    if first is None:
        found = solve_rigid(points, seen, max_error=max_error, noise=noise, seed=seed)
    else:
        found = refine_rigid(points, seen, first, max_error=max_error, noise=noise)
    if found.world_from_cam is None:
        return found
    noise = max(found.sigma, _LEAST_NOISE * max_error)
    return refine_rigid(points, seen, found.world_from_cam, max_error=max_error, noise=noise)
