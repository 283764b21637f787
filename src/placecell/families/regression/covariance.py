"""How far off a network expects its pose to be (aleatoric).

Errors are the twists ξ of `truth = estimate @ exp(ξ)` (docs/conventions.md): (rx ry rz tx ty tz) in camera axes, rad
and the unit of the scene.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from placecell.families.regression.reading import COLUMNS, MOST_LOG, ROWS, covariances
from placecell.pose import Array

_HIDDEN = 64
_FIRST = 0.1
"""Standard deviation of each axis before training: radians, and shares of the map's scale."""


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
            diagonal = numbers[..., :6].clamp(-MOST_LOG, MOST_LOG).exp()
            whitening = torch.diag_embed(diagonal)
            whitening[..., ROWS, COLUMNS] = numbers[..., 6:]
            return whitening / self.unit


def covariance_of(whitening_B66: Tensor) -> Array:
    """(B, 6, 6) Σ = A⁻¹ A⁻ᵀ."""
    return covariances(whitening_B66.double().cpu().numpy())
