"""What training minimises: how far a predicted pose is from the true one, as one number a batch.

Every loss takes an `Answer` and the truth, the centres (B, 3) and the rotations `anchor_from_cam` (B, 3, 3), in the
same frame and the unit of the scene, and returns the mean over the batch. At agreement each is 0 (but for the weights
that `learned_loss` adds) with finite gradients. Auxiliary answers have the same losses; the caller weighs them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from placecell.families.regression.config import Norm
from placecell.families.regression.network import Answer
from placecell.geometry_torch import (
    log_quat_from_matrix,
    product,
    project,
    quat_from_matrix,
    rotation_angle_rad,
    transform,
    twist_from_pose,
)

_BEHIND = 0.1  # as a share of a point's true depth
_SOFT_PX = 100.0


def beta_loss(
    answer: Answer, centre_B3: Tensor, rotation_B33: Tensor, *, beta: float = 500.0, norm: Norm = "l2"
) -> Tensor:
    """PoseNet 2015, eq. 2: |x̂ - x| + β |q̂ - q|, the predicted q̂ as it leaves the network, q a unit quaternion, w
    >= 0.

    Norm `l2` is the paper's. The Caffe files that its authors released square both terms instead and halve them, as
    `squared` does: ½ |x̂ - x|² + ½ β |q̂ - q|². Rotations that are no quaternions are measured as by `rotation_error`.
    """
    x, q = _size(answer.centre_B3 - centre_B3, norm), rotation_error(answer, rotation_B33, norm, unit=False)
    return (x + beta * q).mean()


def learned_loss(
    answer: Answer, centre_B3: Tensor, rotation_B33: Tensor, s_x: Tensor, s_q: Tensor, *, norm: Norm = "l1"
) -> Tensor:
    """PoseNet 2017, eq. 4: L_x exp(-s_x) + s_x + L_q exp(-s_q) + s_q, where s = log σ² is learned with the network.

    L_x = |x̂ - x| and L_q = |q̂ / |q̂| - q|, the paper's norm is `l1`. The value can be below 0.
    """
    x = _size(answer.centre_B3 - centre_B3, norm).mean()
    q = rotation_error(answer, rotation_B33, norm, unit=True).mean()
    return x * (-s_x).exp() + s_x + q * (-s_q).exp() + s_q


def rotation_error(answer: Answer, rotation_B33: Tensor, norm: Norm, *, unit: bool) -> Tensor:
    """(B,) distances of rotations in the numbers that the network emits, told by how many there are.

    Quaternions (4) are compared as 4-vectors with the true one of w >= 0, at `unit` length or as they come; log
    quaternions (3) as 3-vectors (MapNet). For 6 and 9 numbers the network's target is not one vector but every vector
    that is projected to the rotation, so the rotations themselves are compared, by their geodesic angle in radians:
    it is the length of the relative rotation vector, hence twice a log quaternion's, and its slope is the same at any
    angle.
    """
    raw = answer.raw_BK
    if raw.shape[-1] == 4:
        return _size((F.normalize(raw, dim=-1) if unit else raw) - quat_from_matrix(rotation_B33), norm)
    if raw.shape[-1] == 3:
        return _size(raw - log_quat_from_matrix(rotation_B33), norm)
    angle = rotation_angle_rad(product(answer.rotation_B33.mT, rotation_B33))
    return _size(angle.unsqueeze(-1), norm)


def reprojection_loss(
    answer: Answer, centre_B3: Tensor, rotation_B33: Tensor, *, points_BN3: Tensor, valid_BN: Tensor, matrix_B33: Tensor
) -> Tensor:
    """PoseNet 2017, eq. 7: the mean over the scene points seen in a picture of |π(x̂, q̂, g) - π(x, q, g)|₁, in pixels.

    Pixels are those of the picture as the network sees it, whose K is `matrix_B33`; `points_BN3` are in the anchor
    frame, and only `valid_BN` ones in front of the true camera count. The paper has no guards and starts from trained
    weights; we start from trained weights too, and guard:

    - A point nearer to the predicted camera than a tenth of its true depth, or behind it, is projected as if at that
      depth, and how far it lies behind it is added in pixels (f Δz / z), so that it is drawn to the front again.
    - A residual r above 100 px counts as √(100 r), as in DSAC*.
    """
    visible = valid_BN & (_in_camera(centre_B3, rotation_B33, points_BN3)[..., 2] > 0)
    ahead = (centre_B3 + rotation_B33[..., 2]).unsqueeze(-2)  # stands in for the others, which may be NaN
    points = torch.where(visible.unsqueeze(-1), points_BN3, ahead)
    truth = _in_camera(centre_B3, rotation_B33, points)
    guess = _in_camera(answer.centre_B3, answer.rotation_B33, points)
    nearest = _BEHIND * truth[..., 2]
    guarded = torch.cat([guess[..., :2], torch.maximum(guess[..., 2], nearest).unsqueeze(-1)], dim=-1)
    behind_px = matrix_B33[:, :1, 0] * (nearest - guess[..., 2]).clamp_min(0) / truth[..., 2]
    residual_px = (project(guarded, matrix_B33) - project(truth, matrix_B33)).abs().sum(-1) + behind_px
    residual_px = torch.where(residual_px > _SOFT_PX, (_SOFT_PX * residual_px.clamp_min(_SOFT_PX)).sqrt(), residual_px)
    seen = visible.sum(-1)
    mean_px = (residual_px * visible).sum(-1) / seen.clamp_min(1)
    return mean_px.sum() / (seen > 0).sum().clamp_min(1)


def virtual_points_loss(
    answer: Answer,
    centre_B3: Tensor,
    rotation_B33: Tensor,
    *,
    matrix_B33: Tensor,
    size: tuple[int, int],
    depths: Sequence[float],
) -> Tensor:
    """How far points that move with the camera are displaced: the mean of |(R̂ p + x̂) - (R p + x)|, in scene units.

    The points p lie on the lines of sight through the principal point and the four corners of the picture of `size`
    (width, height), at each of `depths` along z. So one length couples centre and rotation, roll included, with no β:
    far points weigh rotation, near ones the centre. In the spirit of the coupled loss of Ward et al. 2019, whose
    formula we could not read.
    """
    if not depths or min(depths) <= 0:
        raise ValueError(f"virtual points lie at positive depths, not {list(depths)}")
    points_cam = _corner_points(matrix_B33, size, depths)
    guess = transform(answer.rotation_B33, answer.centre_B3, points_cam)
    return _size(guess - transform(rotation_B33, centre_B3, points_cam), "l2").mean()


def homography_loss(
    answer: Answer, centre_B3: Tensor, rotation_B33: Tensor, *, near: float | Tensor, far: float | Tensor
) -> Tensor:
    """The mean of ||H(d) - I||² (Frobenius) over planes z = d before the true camera, near <= d <= far (scene units).

    Boittiaux et al. 2022 (arXiv 2205.01937). On the plane z = d a point of the true camera c moves to the predicted ĉ
    by

        x_ĉ = R x_c + t = (R + t e_zᵀ / d) x_c = H(d) x_c,    R = R̂ᵀ R_c,  t = R̂ᵀ (x - x̂),

    H in rays (no K), so that for d uniform in the interval, as in the authors' code, the mean is, in closed form,

        ||R - I||² + 2 t · (R - I) e_z · ln(far / near) / (far - near) + |t|² / (near far).

    Distances may be numbers, or tensors (B,), one interval a picture (their "local" loss). The authors' "global"
    variant has the sign of the middle term turned around; it follows from the formula above that theirs is a slip.
    """
    near, far = (torch.as_tensor(d, dtype=centre_B3.dtype, device=centre_B3.device) for d in (near, far))
    if not bool(((near > 0) & (far > near)).all()):
        raise ValueError("the planes of the homography loss lie at 0 < near < far")
    relative = product(answer.rotation_B33.mT, rotation_B33)
    t = _in_camera(answer.centre_B3, answer.rotation_B33, centre_B3.unsqueeze(-2)).squeeze(-2)
    turn = relative - torch.eye(3, dtype=relative.dtype, device=relative.device)
    mixed = 2 * (t * turn[..., 2]).sum(-1) * (far / near).log() / (far - near)
    return (turn.square().sum((-2, -1)) + mixed + t.square().sum(-1) / (near * far)).mean()


def likelihood_loss(
    answer: Answer, centre_B3: Tensor, rotation_B33: Tensor, *, kind: Literal["gaussian", "laplace"] = "gaussian"
) -> Tensor:
    """The negative log-likelihood of the error ξ of `truth = estimate @ exp(ξ)` by the covariance that is expected.

    With w = A ξ, Σ⁻¹ = AᵀA, d = 6:

        gaussian: ½ |w|² - log det A + (d/2) log 2π
        laplace:  √2 |w|₁ - log det A + (d/2) log 2     (independent along the axes of A, Σ its covariance all the same)

    The slides of Kendall and Gal's loss, |ŷ - y|² / 2σ² + log σ², leave out the d/2 of the logarithm, which for d = 3
    makes σ² too small by a third.

    Raises:
        ValueError: the answer comes without a covariance.
    """
    if answer.whitening_B66 is None:
        raise ValueError("the likelihood of an error needs a covariance; set covariance to gaussian or laplace")
    relative = product(answer.rotation_B33.mT, rotation_B33)
    away = _in_camera(answer.centre_B3, answer.rotation_B33, centre_B3.unsqueeze(-2)).squeeze(-2)
    white = product(answer.whitening_B66, twist_from_pose(relative, away).unsqueeze(-1)).squeeze(-1)
    log_det = answer.whitening_B66.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    if kind == "gaussian":
        return (white.square().sum(-1) / 2 - log_det).mean() + 3 * math.log(2 * math.pi)
    return (math.sqrt(2) * white.abs().sum(-1) - log_det).mean() + 3 * math.log(2)


def _in_camera(centre_B3: Tensor, rotation_B33: Tensor, points_BN3: Tensor) -> Tensor:
    """Points of the anchor frame in the axes of cameras given as `anchor_from_cam`."""
    return product(points_BN3 - centre_B3.unsqueeze(-2), rotation_B33)


def _corner_points(matrix_B33: Tensor, size: tuple[int, int], depths: Sequence[float]) -> Tensor:
    """(B, 5 K, 3) in camera axes: the principal point and the corners of the picture, at each depth along z."""
    width, height = size
    corners = matrix_B33.new_tensor([(0, 0), (width, 0), (0, height), (width, height)]).expand(len(matrix_B33), 4, 2)
    principal = matrix_B33[:, None, :2, 2]
    focal = matrix_B33.diagonal(dim1=-2, dim2=-1)[:, None, :2]
    rays = F.pad((torch.cat([principal, corners], dim=1) - principal) / focal, (0, 1), value=1.0)
    return torch.cat([depth * rays for depth in depths], dim=1)


def _size(difference_BK: Tensor, norm: Norm) -> Tensor:
    if norm == "l1":
        return difference_BK.abs().sum(-1)
    if norm == "l2":
        length: Tensor = torch.linalg.vector_norm(difference_BK, dim=-1)
        return length
    return difference_BK.square().sum(-1) / 2
