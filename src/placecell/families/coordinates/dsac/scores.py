"""How good hypotheses are, by the errors that they leave: counted softly, or judged by a small network."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SIDE = 40
"""Cells a side of the pictures of errors that DSAC (2017) judges hypotheses by."""


def soft_inliers(errors_HN: Tensor, max_error: float, *, alpha: float = 100.0, beta: float = 5.0) -> Tensor:
    """(H,) α / N Σ (1 - sigmoid(β (e / τ - 1))), the share of inliers, softly counted (DSAC*, eq. 5; its β is 5 / τ).

    α sets how sure the choice between hypotheses is. Errors may be infinite.
    """
    scores: Tensor = alpha * torch.sigmoid(beta * (1 - errors_HN / max_error)).mean(-1)
    return scores


class ScoreNetwork(nn.Module):
    """Scores hypotheses by the pictures of their errors, as DSAC (2017) does, so that it can learn what to ignore.

    A picture of errors holds e / (e + τ), from 0 for none to 1 for behind the camera, on 40 x 40 cells; five
    convolutions of stride 2 and a mean make one number of it. Unlike DSAC's, which begins from nothing, it is added to
    the soft count of inliers and begins at 0: an untrained one chooses as well as the count.
    """

    def __init__(self, *, width: int = 32) -> None:
        super().__init__()
        widths = (1, width // 4, width // 2, width, width, width)
        layers = [nn.Conv2d(few, many, 3, stride=2, padding=1) for few, many in pairwise(widths)]
        self.layers = nn.ModuleList(layers)
        for layer in layers:  # torch's own would let a picture fade on its way through
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.last = nn.Linear(width, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, errors_HN: Tensor, max_error: float, *, size: tuple[int, int], alpha: float = 100.0) -> Tensor:
        """(H,) scores of errors of the h x w = N cells of `size` (h, w), row by row."""
        picture = (1 - max_error / (errors_HN + max_error)).to(self.last.weight.dtype).reshape(-1, 1, *size)
        features = F.interpolate(picture, (_SIDE, _SIDE), mode="bilinear", antialias=True, align_corners=False)
        for layer in self.layers:
            features = F.relu(layer(features))
        learned = self.last(features.mean((2, 3))).squeeze(-1)
        scores: Tensor = soft_inliers(errors_HN, max_error, alpha=alpha) + learned.to(errors_HN.dtype)
        return scores
