"""How good the poses of a coordinate network are, found as they will be in use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from placecell.families.coordinates.dsac.shots import STILL, Shots, batch_of, cell_pixels
from placecell.pnp import solve_pnp
from placecell.pose import Pose, pose_error
from placecell.rigid import solve_rigid

_NOISE = 0.02
"""Of points by depth and of coordinates, scene units an axis: what agrees is weighed by it, and all alike."""


def median_errors(
    network: nn.Module,
    shots: Shots,
    held: Sequence[int],
    *,
    stride: int = 8,
    rgbd: bool = False,
    max_error: float | None = None,
    cm_per_unit: float = 100.0,
) -> dict[str, float]:
    """Medians over some shots as they are, `{"cm": 2.1, "deg": 0.6}`; {} without any. No pose counts as infinitely far.

    Args:
        max_error: of an inlier; 10 px, or 0.1 scene units with `rgbd`, when None.
    """
    if not len(held):
        return {}
    found = [placed(network, shots, index, stride=stride, rgbd=rgbd, max_error=max_error) for index in held]
    truths = [Pose.nearest(np.column_stack([shots.rotations[index], shots.centres[index]])) for index in held]
    away, turned = zip(*(pose_error(one, truth) for one, truth in zip(found, truths, strict=True)), strict=True)
    # A training reports numbers, and a median may well be that of no pose at all.
    return {"cm": min(cm_per_unit * float(np.median(away)), 1e6), "deg": float(np.median(turned))}


def placed(
    network: nn.Module,
    shots: Shots,
    index: int,
    *,
    stride: int = 8,
    rgbd: bool = False,
    max_error: float | None = None,
) -> Pose | None:
    """`map_from_cam` of one shot by RANSAC on what the network says of it."""
    batch = batch_of(shots, [index], STILL, stride, [np.random.default_rng(0)])
    device = next(network.parameters()).device
    with torch.no_grad():
        coordinates = network(batch["images"].to(device)).float().cpu()
    points: NDArray[np.float64] = coordinates[0].flatten(1).T.double().numpy()
    finite = np.isfinite(points).all(axis=1)
    if rgbd:
        seen = batch["seen"][0].flatten(0, 1).double().numpy()
        known = finite & np.isfinite(seen).all(axis=1)
        return solve_rigid(points[known], seen[known], max_error=max_error or 0.1, noise=_NOISE).world_from_cam
    pixels = cell_pixels(shots.camera, stride).reshape(-1, 2)
    return solve_pnp(points[finite], pixels[finite], shots.camera, max_error_px=max_error or 10.0).world_from_cam
