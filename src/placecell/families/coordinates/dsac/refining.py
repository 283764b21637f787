"""Hypotheses drawn to the optimum over all the points that agree with them, as differentiable as before."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from placecell.families.coordinates.dsac.optimum import Poses, Scale, descended, errors, followed, in_camera
from placecell.families.coordinates.dsac.sights import Sight

_SETTLED = 1e-6
"""Longest last step, radians and scene units, of a pose that stands at an optimum."""
_ROUNDS, _LAST = 5, 3
"""Steps while inliers are chosen anew (DSAC: 8; DSAC*: until their number does not grow), and after."""
_GLANCE = 600
"""Points that are looked at while inliers are chosen anew; all are in the last round of these, and after."""


class Refined(NamedTuple):
    """H poses `map_from_cam` as functions of the coordinates."""

    rotation_H33: Tensor
    centre_H3: Tensor
    inliers_HN: Tensor
    """The points that each is the optimum of; none where the pose could not be bettered and is as it was."""


def refined(points_N3: Tensor, sight: Sight, poses: Poses, *, max_error: float, scale: Scale = None) -> Refined:
    """Poses that minimise the errors of their inliers, found by steps of Gauss and Newton, and differentiable.

    Steps alternate with taking the points within `max_error` for inliers; then the inliers stay and Newton's steps go
    on to the optimum, from which `followed` differentiates: neither through the steps nor by finite differences, as
    DSAC* does. Which points are inliers counts as constant. A pose keeps what it was, with its gradients, when it does
    not settle or would lose inliers.

    Args:
        points_N3: of all hypotheses, or (H, N, 3) of each.
        poses: moving with the points or not.
        scale: of Cauchy's kernel, one number, (N,) or (H, N), with gradients or without; None for least squares, as
            DSAC and DSAC*.
    """
    points = points_N3.double()
    with torch.no_grad():
        found, used, good = _optimum(points, sight, (poses[0].detach(), poses[1].detach()), max_error, scale)
        used &= good[:, None]  # nothing of the others, whose derivatives may be infinite
    better = followed(points, sight, found, used, scale=scale)
    rotation = torch.where(good[:, None, None], better[0], poses[0])
    return Refined(rotation, torch.where(good[:, None], better[1], poses[1]), used)


def _optimum(
    points_N3: Tensor, sight: Sight, poses: Poses, max_error: float, scale: Scale
) -> tuple[Poses, Tensor, Tensor]:
    """The poses, the inliers (H, N) that they are the optimum of, and which of them (H,) are good."""
    count = points_N3.shape[-2]
    some = torch.arange(0, count, max(1, count // _GLANCE), device=points_N3.device)
    widths = scale[..., some] if isinstance(scale, Tensor) else scale
    found = _glanced(points_N3[..., some, :], sight.at(some), poses, max_error, widths)
    before, used = (_agreeing(points_N3, sight, each, max_error) for each in (poses, found))
    found, _ = descended(points_N3, sight, found, used, scale=scale)
    used = _agreeing(points_N3, sight, found, max_error)
    for _ in range(_LAST):
        found, step = descended(points_N3, sight, found, used, scale=scale, exact=True)
    enough = before.sum(-1).clamp_min(sight.minimum)
    good = (step.abs().amax(-1) < _SETTLED) & (used.sum(-1) >= enough)
    good &= found[0].isfinite().all(-1).all(-1) & found[1].isfinite().all(-1)
    safe = torch.where(good[:, None, None], found[0], poses[0]), torch.where(good[:, None], found[1], poses[1])
    return safe, used, good


def _glanced(points_N3: Tensor, sight: Sight, poses: Poses, max_error: float, scale: Scale) -> Poses:
    """The poses after a few steps by some of the points."""
    for _ in range(_ROUNDS):
        used = _agreeing(points_N3, sight, poses, max_error)
        poses, _ = descended(points_N3, sight, poses, used, scale=scale)
    return poses


def _agreeing(points_N3: Tensor, sight: Sight, poses: Poses, max_error: float) -> Tensor:
    return errors(sight, in_camera(points_N3, poses)) < max_error
