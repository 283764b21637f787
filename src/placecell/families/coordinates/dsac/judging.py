"""How good the poses of a coordinate network are, found as they will be in use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from placecell.families.coordinates.dsac.answering import answered, coordinates
from placecell.families.coordinates.dsac.expected import Ransac
from placecell.families.coordinates.dsac.shots import STILL, Shots, batch_of
from placecell.pose import Pose, pose_error


def median_errors(
    network: nn.Module, shots: Shots, held: Sequence[int], ransac: Ransac, *, stride: int = 8, rgbd: bool = False
) -> dict[str, float]:
    """Medians over some shots as they are, `{"cm": 2.1, "deg": 0.6}`; {} without any. No pose is infinitely far."""
    if not len(held):
        return {}
    found = [placed(network, shots, index, ransac, stride=stride, rgbd=rgbd) for index in held]
    truths = [Pose.nearest(np.column_stack([shots.rotations[index], shots.centres[index]])) for index in held]
    away, turned = zip(*(pose_error(one, truth) for one, truth in zip(found, truths, strict=True)), strict=True)
    # A training reports numbers, and a median may well be that of no pose at all.
    return {"cm": min(ransac.cm_per_unit * float(np.median(away)), 1e6), "deg": float(np.median(turned))}


def placed(
    network: nn.Module, shots: Shots, index: int, ransac: Ransac, *, stride: int = 8, rgbd: bool = False
) -> Pose | None:
    """`map_from_cam` of one shot by RANSAC on what the network says of it."""
    points = coordinates(network, np.array(shots.images[index]))  # a copy: torch wants no read-only memory
    if not np.isfinite(points).all():
        return None
    seen = None
    if rgbd:
        batch = batch_of(shots, [index], STILL, stride, [np.random.default_rng(0)])
        seen = batch["seen"][0].double().numpy()
    return answered(network, points, shots.camera, ransac, seen_hw3=seen, stride=stride).world_from_cam
