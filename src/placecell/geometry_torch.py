"""Rotations and projection in batches of torch tensors, with gradients that are finite everywhere.

Axes are last: vectors (..., 3), matrices (..., 3, 3). Products are written as sums and not as matmul, which autocast
would round to bf16: a tenth of a degree.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-12
_SMALL_ANGLE2 = 1e-6  # below, the next term of the series is under 1e-13
_LEAST_GAP = 1e-4  # of singular values, below which the gradient of the closest rotation is held back


def matrix_from_quat(quat_wxyz_B4: Tensor) -> Tensor:
    """(B, 3, 3) rotations of quaternions of any length, w first; a zero quaternion is the identity.

    R = I + s (w [v]× + [v]×²), s = 2 / |q|², which needs no normalised q.
    """
    w, v = quat_wxyz_B4[..., :1, None], quat_wxyz_B4[..., 1:]
    scale = 2 / quat_wxyz_B4.square().sum(-1).clamp_min(_TINY)[..., None, None]
    turn = skew(v)
    return _identity(turn) + scale * (w * turn + product(turn, turn))


def matrix_from_6d(columns_B6: Tensor) -> Tensor:
    """(B, 3, 3) rotations whose first two columns are Gram and Schmidt's of two vectors (Zhou et al. 2019, eq. 15).

    Continuous, unlike quaternions. Not a rotation where the vectors are parallel or zero, but finite there too.
    """
    first = _unit(columns_B6[..., :3])
    second = columns_B6[..., 3:]
    second = _unit(second - (first * second).sum(-1, keepdim=True) * first)
    return torch.stack([first, second, torch.linalg.cross(first, second, dim=-1)], dim=-1)


def matrix_from_9d(rows_B9: Tensor) -> Tensor:
    """(B, 3, 3) rotations closest to matrices given row by row, in the Frobenius norm (Levinson et al. 2020, SVDO+).

    The gradient of an SVD is infinite where singular values meet, as they do at every rotation, but that of the closest
    rotation is not: with M = U S Vᵀ, det U = det V, S = diag(s₁, s₂, ±s₃),

        dR = U X Vᵀ,  X_ij = (W_ij - W_ji) / (s_i + s_j),  W = Uᵀ dM V.

    So the SVD is taken of a constant and this differential is added to it. Where the closest rotation is not unique
    (s₂ + s₃ = 0) the denominator is held away from zero.
    """
    matrix = rows_B9.reshape(*rows_B9.shape[:-1], 3, 3)
    constant = matrix.detach()
    # The SVD of NaN is an error; `step` carries the NaN on to the loss, where training reports it with its frames.
    u, s, vh = torch.linalg.svd(torch.nan_to_num(constant))
    sign = torch.linalg.det(u) * torch.linalg.det(vh)
    flip = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign.sign()], dim=-1)
    u, s, v = u * flip.unsqueeze(-2), s * flip, vh.mT
    step = product(product(u.mT, matrix - constant), v)
    gap = (s.unsqueeze(-1) + s.unsqueeze(-2)).clamp_min(_LEAST_GAP)
    return product(product(u, _identity(u) + (step - step.mT) / gap), vh)


def matrix_from_log_quat(log_quat_B3: Tensor) -> Tensor:
    """(B, 3, 3) rotations of log quaternions, half the angle times the axis in radians (MapNet, Brahmbhatt 2018)."""
    angle2 = log_quat_B3.square().sum(-1, keepdim=True)
    small = angle2 < _SMALL_ANGLE2
    angle = torch.where(small, 1, angle2).sqrt()
    sinc = torch.where(small, 1 - angle2 / 6, angle.sin() / angle)
    cosine = torch.where(small, 1 - angle2 / 2, angle.cos())
    return matrix_from_quat(torch.cat([cosine, sinc * log_quat_B3], dim=-1))


def quat_from_matrix(matrix_B33: Tensor) -> Tensor:
    """(B, 4) unit quaternions of rotations, w first and w >= 0.

    Each row of the matrix below is 4 q_i q; the one of the largest q_i is normalised (Shepperd 1978).
    """
    m = [[matrix_B33[..., i, j] for j in range(3)] for i in range(3)]
    x, y, z = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    xy, xz, yz = m[1][0] + m[0][1], m[0][2] + m[2][0], m[2][1] + m[1][2]
    rows = [
        [1 + m[0][0] + m[1][1] + m[2][2], x, y, z],
        [x, 1 + m[0][0] - m[1][1] - m[2][2], xy, xz],
        [y, xy, 1 - m[0][0] + m[1][1] - m[2][2], yz],
        [z, xz, yz, 1 - m[0][0] - m[1][1] + m[2][2]],
    ]
    table = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    largest = table.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    quat = F.normalize(torch.take_along_dim(table, largest[..., None, None], dim=-2).squeeze(-2), dim=-1)
    return torch.where(quat[..., :1] < 0, -quat, quat)


def log_quat_from_matrix(matrix_B33: Tensor) -> Tensor:
    """(B, 3) log quaternions of rotations, inverse of `matrix_from_log_quat`; no longer than pi / 2."""
    quat = quat_from_matrix(matrix_B33)
    w, v = quat[..., :1], quat[..., 1:]
    sine2 = v.square().sum(-1, keepdim=True)
    small = sine2 < _SMALL_ANGLE2
    sine = torch.where(small, 1, sine2).sqrt()
    return torch.where(small, 1 + sine2 / 6, torch.atan2(sine, w) / sine) * v


def twist_from_pose(rotation_B33: Tensor, translation_B3: Tensor) -> Tensor:
    """(B, 6) twists (r, v) of rigid motions, r a rotation vector no longer than pi: the inverse of `Pose.exp`.

    v = t - ½ r x t + c r x (r x t), c = (1 - θ/2 cot θ/2) / θ², θ = |r|.
    """
    turn = 2 * log_quat_from_matrix(rotation_B33)
    angle2 = turn.square().sum(-1, keepdim=True)
    small = angle2 < _SMALL_ANGLE2
    half = torch.where(small, 1, angle2).sqrt() / 2
    factor = torch.where(
        small, 1 / 12 + angle2 / 720, (1 - half * half.cos() / half.sin()) / torch.where(small, 1, angle2)
    )
    across = torch.linalg.cross(turn, translation_B3, dim=-1)
    moved = translation_B3 - across / 2 + factor * torch.linalg.cross(turn, across, dim=-1)
    return torch.cat([turn, moved], dim=-1)


def rotation_angle_rad(matrix_B33: Tensor) -> Tensor:
    """(B,) full angles of rotations, 0 to pi: atan2 of 2 sin and 2 cos. The gradient is 0 at 0 and at pi exactly."""
    cosine = matrix_B33.diagonal(dim1=-2, dim2=-1).sum(-1) - 1
    difference = matrix_B33 - matrix_B33.mT
    sine = torch.stack([difference[..., 2, 1], difference[..., 0, 2], difference[..., 1, 0]], dim=-1)
    return torch.atan2(torch.linalg.vector_norm(sine, dim=-1), cosine)


def transform(rotation_B33: Tensor, translation_B3: Tensor, points_BN3: Tensor) -> Tensor:
    """(B, N, 3) points moved by `b_from_a`: x_b = R x_a + t."""
    return product(points_BN3, rotation_B33.mT) + translation_B3.unsqueeze(-2)


def project(points_cam_BN3: Tensor, matrix_B33: Tensor) -> Tensor:
    """(B, N, 2) pixels of points in camera axes by pinholes K; without meaning, perhaps infinite, where z <= 0."""
    image = product(points_cam_BN3, matrix_B33.mT)
    return image[..., :2] / image[..., 2:]


def skew(vector_B3: Tensor) -> Tensor:
    """(B, 3, 3) matrices with `skew(v) @ x == cross(v, x)`."""
    x, y, z = vector_B3.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(*x.shape, 3, 3)


def product(a_BIJ: Tensor, b_BJK: Tensor) -> Tensor:
    """(B, I, K) matrix products in the precision of the factors, under autocast too."""
    return (a_BIJ.unsqueeze(-1) * b_BJK.unsqueeze(-3)).sum(-2)


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.square().sum(-1, keepdim=True).clamp_min(_TINY).sqrt()


def _identity(like_B33: Tensor) -> Tensor:
    return torch.eye(3, dtype=like_B33.dtype, device=like_B33.device)
