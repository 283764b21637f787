"""How far off a pose may be: what the network itself expects (aleatoric), and how much it changes its mind (epistemic).

Errors are the twists ξ of `truth = estimate @ exp(ξ)` (docs/conventions.md): (rx ry rz tx ty tz) in camera axes, rad
and the unit of the scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from placecell.pose import Array, Pose, mean_pose, scatter

_HIDDEN = 64
_FIRST = 0.1
"""Standard deviation of each axis before training: radians, and shares of the map's scale."""
_MOST_LOG = 12.0
"""Of the diagonal: nothing is known better than to e⁻¹² of a radian, or worse than to e¹²."""
_ROWS, _COLUMNS = np.tril_indices(6, -1)


class CovarianceHead(nn.Module):
    """What a pose was made of, to the whitening A of its error: Σ⁻¹ = AᵀA with A lower triangular, 21 numbers.

    Kendall and Gal (2017) give each output a variance of its own; errors of a camera's place and rotation go together,
    so ours has all 21 numbers of the covariance in the tangent space. It needs no labels but the poses.
    """

    def __init__(self, features: int, scale: float) -> None:
        """`features` numbers come in; centres are of about `scale`."""
        super().__init__()
        self.first, self.last = nn.Linear(features + 1, _HIDDEN), nn.Linear(_HIDDEN, 21)
        nn.init.normal_(self.last.weight, std=1e-3)
        nn.init.zeros_(self.last.bias)
        self.unit: Tensor
        self.register_buffer("unit", _FIRST * torch.tensor([1.0] * 3 + [scale] * 3))

    def forward(self, feature_BD: Tensor) -> Tensor:
        """(B, 6, 6) A, in full precision under autocast too."""
        with torch.autocast(feature_BD.device.type, enabled=False):
            feature = feature_BD.to(self.last.weight.dtype)
            length = feature.square().mean(-1, keepdim=True).add(1e-12).sqrt()
            told = torch.cat([feature / length, length.log()], dim=-1)
            numbers = self.last(F.relu(self.first(told)))
            diagonal = numbers[..., :6].clamp(-_MOST_LOG, _MOST_LOG).exp()
            whitening = torch.diag_embed(diagonal)
            whitening[..., _ROWS, _COLUMNS] = numbers[..., 6:]
            return whitening / self.unit


class Spread(NamedTuple):
    """Where several looks at a picture put the camera, and how far off that may be; covariances (6, 6) of ξ."""

    mean: Pose
    expected: Array | None
    """Aleatoric: the mean of what the network expects; None where it has not learned to."""
    weights: Array
    """Epistemic: how far the passes of one window with other weights dropped lie from their mean."""
    windows: Array
    """How far the windows of the picture disagree."""

    @property
    def total(self) -> Array | None:
        """The sum, as the parts do not depend on each other (Kendall and Gal 2017, eq. 9); None where nothing tells."""
        total = self.weights + self.windows + (0.0 if self.expected is None else self.expected)
        return total if np.trace(total) > 0 else None


def spread(poses: Sequence[Sequence[Pose]], expected: Array | None) -> Spread | None:
    """What windows, and the passes of each, say together; None where rotations look opposite ways and have no mean.

    Args:
        poses: of each window, its passes.
        expected: (N, 6, 6) covariances that the network expects, of all passes of all windows.

    Every look is at a picture of one camera, so all answer with the same pose. The papers average quaternions number by
    number; the chordal mean is what that means where signs and lengths may differ.

    The paper of Bayesian PoseNet takes 40 passes of which each sees another random crop, so that what it reports mixes
    both kinds; here they are told apart.
    """
    try:
        each = [_together(passes) for passes in poses]
        mean, windows = _together([own for own, _ in each])
    except ValueError:
        return None
    weights = np.mean([scattered for _, scattered in each], axis=0)
    return Spread(mean, None if expected is None else expected.mean(axis=0), weights, windows)


def _together(poses: Sequence[Pose]) -> tuple[Pose, Array]:
    """The mean of poses and their covariance about it; exactly the pose and nothing where there is one."""
    if len(poses) == 1:
        return poses[0], np.zeros((6, 6))
    mean = mean_pose(poses)
    return mean, scatter(poses, mean)


def covariance_of(whitening_B66: Tensor) -> Array:
    """(B, 6, 6) Σ = A⁻¹ A⁻ᵀ."""
    inverse = np.linalg.inv(whitening_B66.double().cpu().numpy())
    found: Array = inverse @ inverse.transpose(0, 2, 1)
    return found
