"""Poses at which a sum over points is least, how they are found, and how they move when the points do.

The sum is F(R, c) = Σ ρ(|r(y)|²), y = Rᵀ (X - c) the points X of the map in camera axes, r the residuals of a sight,
ρ(s) = s, or Cauchy's log(1 + s / σ²), σ of all points alike or of each. Poses are `map_from_cam` and step on their
right by (ω, v), radians and the unit of the scene: R exp(ω), c + R v. Points in camera axes are (H, 3, N), all float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from placecell.families.coordinates.dsac.sights import Sight
from placecell.geometry_torch import matrix_from_log_quat, skew

_LEAST_EIGENVALUE = 1e-10
"""Of a Hessian scaled to a unit diagonal; below, a pose is held so badly that its derivatives mean nothing."""
_ROUNDING = 1e-15

Poses = tuple[Tensor, Tensor]
"""Rotations (H, 3, 3) and centres (H, 3) of `map_from_cam`."""
Scale = float | Tensor | None
"""σ of Cauchy's kernel in the unit of the residuals: one number, (N,) or (H, N), with gradients if wanted; None is
ρ(s) = s."""


def in_camera(points_N3: Tensor, poses: Poses) -> Tensor:
    """(H, 3, N) points of the map, (N, 3) or (H, N, 3), in the axes of each camera."""
    rotation, centre = poses
    return rotation.mT @ (points_N3.mT - centre.unsqueeze(-1))


def errors(sight: Sight, points_cam_H3N: Tensor) -> Tensor:
    """(H, N) lengths of the residuals, inf behind the camera and where nothing was measured; gradients are finite."""
    squares = sight.residuals(points_cam_H3N).square().sum(-2)
    finite = squares.isfinite()
    # A root has no derivative at 0, and points of a minimal sample have no error.
    return torch.where(finite, (torch.where(finite, squares, 1.0) + 1e-18).sqrt(), torch.inf)


def descended(
    points_N3: Tensor,
    sight: Sight,
    poses: Poses,
    used_HN: Tensor,
    *,
    scale: Scale = None,
    exact: bool = False,
) -> tuple[Poses, Tensor]:
    """The poses after one step of Gauss and Newton, or of Newton where `exact` and F is convex; the step (H, 6)."""
    gradient, hessian = _derivatives(in_camera(points_N3, poses), sight, used_HN, scale, exact)
    step = -_solved(hessian, gradient)
    return _moved(poses, step), step


def followed(points_N3: Tensor, sight: Sight, poses: Poses, used_HN: Tensor, *, scale: Scale = None) -> Poses:
    """Poses at a least F as functions of the points: the same values, with gradients.

    Where the gradient g of F is zero, the implicit function theorem gives dξ/dX = -H⁻¹ ∂g/∂X, H the Hessian with all
    second derivatives. So a Newton step of constant H and of the g of the points as they come is taken: its value is
    zero and its derivative this. It holds at any optimum: of all inliers; of three points of P3P, where r is zero and
    the step is -J⁻¹ r; of Kabsch. First derivatives only.

    Poses that the points hardly hold (near P3P's danger cylinder, points in a line) come as constants.
    """
    with torch.no_grad():
        _, hessian = _derivatives(in_camera(points_N3, poses), sight, used_HN, scale, exact=True)
        held = _least_eigenvalue(hessian) > _LEAST_EIGENVALUE
        hessian = torch.where(held[:, None, None], hessian, torch.eye(6).to(hessian))
    points_cam = _placed(in_camera(points_N3, poses), used_HN)
    residuals = _residuals(sight, points_cam, used_HN)
    force = sight.force(points_cam, _weight(residuals, used_HN, scale).unsqueeze(-2) * residuals)
    step = -_solved(hessian, _pushed(points_cam, force))
    return _moved(poses, torch.where(held.unsqueeze(-1), step, 0.0))


def _derivatives(
    points_cam_H3N: Tensor, sight: Sight, used_HN: Tensor, scale: Scale, exact: bool
) -> tuple[Tensor, Tensor]:
    """(H, 6) gradient of F / 2 by (ω, v), and (H, 6, 6) JᵀWJ, or the Hessian where that is asked for and positive."""
    points = _placed(points_cam_H3N, used_HN)
    residuals = _residuals(sight, points, used_HN)
    weight = _weight(residuals, used_HN, scale)
    influence = weight.unsqueeze(-2) * residuals
    force = sight.force(points, influence)
    hessian = sight.normal(points, weight)
    if exact:
        full = hessian + sight.curvature(points, influence) + _bending(points, force)
        if scale is not None:
            by_pose = torch.cat([torch.linalg.cross(force, points, dim=-2), -force], dim=-2)
            full = full - 2 * by_pose @ by_pose.mT
        hessian = torch.where((_least_eigenvalue(full) > _LEAST_EIGENVALUE)[:, None, None], full, hessian)
    return _pushed(points, force), hessian


def _pushed(points_cam_H3N: Tensor, force_H3N: Tensor) -> Tensor:
    """(H, 6): a step moves y by y × ω - v, so forces f on the points are (Σ f × y, -Σ f) on the pose."""
    outer = force_H3N @ points_cam_H3N.mT
    turn = [outer[:, 1, 2] - outer[:, 2, 1], outer[:, 2, 0] - outer[:, 0, 2], outer[:, 0, 1] - outer[:, 1, 0]]
    return torch.cat([torch.stack(turn, dim=-1), -force_H3N.sum(-1)], dim=-1)


def _bending(points_cam_H3N: Tensor, force_H3N: Tensor) -> Tensor:
    """(H, 6, 6) what second derivatives of y itself add: exp(-ω)(y - v) = … + ω × v + ½ ω × (ω × y)."""
    outer = force_H3N @ points_cam_H3N.mT
    along = outer.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    turn = (outer + outer.mT) / 2 - along * torch.eye(3).to(outer)
    both = -skew(force_H3N.sum(-1))
    return torch.cat([torch.cat([turn, both], -1), torch.cat([both.mT, torch.zeros_like(both)], -1)], -2)


def _weight(residuals_HDN: Tensor, used_HN: Tensor, scale: Scale) -> Tensor:
    """(H, N) ρ' of the points that are used, 0 for the others."""
    if scale is None:
        return used_HN.to(residuals_HDN.dtype)
    return used_HN / (scale**2 + residuals_HDN.square().sum(-2))


def _placed(points_cam_H3N: Tensor, used_HN: Tensor) -> Tensor:
    """The points, those not used where they do no harm: 0 times what they would give is not always 0."""
    harmless = torch.tensor([0.0, 0.0, 1.0]).to(points_cam_H3N).unsqueeze(-1)
    return torch.where(used_HN.unsqueeze(-2), points_cam_H3N, harmless)


def _residuals(sight: Sight, points_cam_H3N: Tensor, used_HN: Tensor) -> Tensor:
    """(H, D, N) those of the points that are used, 0 of the others, of which nothing may have been measured."""
    return torch.where(used_HN.unsqueeze(-2), sight.residuals(points_cam_H3N), 0.0)


def _moved(poses: Poses, step_H6: Tensor) -> Poses:
    rotation, centre = poses
    turn, shift = step_H6[:, :3], step_H6[:, 3:]
    return rotation @ matrix_from_log_quat(turn / 2), centre + (rotation @ shift.unsqueeze(-1)).squeeze(-1)


def _solved(hessian_H66: Tensor, gradient_H6: Tensor) -> Tensor:
    """(H, 6) H⁻¹ g, by way of a unit diagonal, so that neither the unit of the scene nor angles decide."""
    scale = hessian_H66.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300).rsqrt()
    unit = scale.unsqueeze(-1) * hessian_H66 * scale.unsqueeze(-2) + _ROUNDING * torch.eye(6).to(hessian_H66)
    solution: Tensor = torch.linalg.solve_ex(unit, (scale * gradient_H6).unsqueeze(-1))[0]
    return scale * solution.squeeze(-1)


def _least_eigenvalue(hessian_H66: Tensor) -> Tensor:
    """(H,) of the Hessians scaled to a unit diagonal; -1 where the diagonal is not positive or nothing is a number."""
    diagonal = hessian_H66.diagonal(dim1=-2, dim2=-1)
    sound = (diagonal > 0).all(-1) & hessian_H66.isfinite().all(-1).all(-1)
    scale = diagonal.clamp_min(1e-300).rsqrt()
    unit = torch.where(sound[:, None, None], scale.unsqueeze(-1) * hessian_H66 * scale.unsqueeze(-2), 0.0)
    return torch.where(sound, torch.linalg.eigvalsh(unit)[:, 0], -1.0)
