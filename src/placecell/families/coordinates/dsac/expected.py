"""The loss of a picture's pose, expected over the hypotheses that RANSAC chooses between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from placecell.families.coordinates.dsac.hypotheses import moving, sampled
from placecell.families.coordinates.dsac.optimum import Poses, errors, in_camera
from placecell.families.coordinates.dsac.refining import refined
from placecell.families.coordinates.dsac.scores import soft_inliers
from placecell.families.coordinates.dsac.sights import Sight
from placecell.geometry_torch import rotation_angle_rad

Measure = Literal["max", "sum"]
Score = Callable[[Tensor], Tensor]
"""(H, N) errors to (H,) scores."""

_SOFT = 100.0
"""Loss above which it grows with its root only (DSAC*)."""


@dataclass(frozen=True)
class Ransac:
    """How poses are found and judged; the numbers of DSAC*."""

    hypotheses: int = 64
    """Hypotheses a picture."""
    max_error: float = 10.0
    """τ, up to which a point agrees: pixels of the network's picture, or scene units for RGB-D (DSAC*: 0.1 m)."""
    alpha: float = 100.0
    """How sure the choice is: what all points agreeing would score."""
    refine: int = 16
    """At most so many hypotheses, the likeliest, are refined."""
    least_chance: float = 1e-3
    """Less likely hypotheses are judged as they are."""
    scale: float | None = None
    """Of Cauchy's kernel when refining; None is least squares."""
    measure: Measure = "max"
    """max(degrees, centimetres), as DSAC; or their sum with DSAC*'s soft clamp."""
    cm_per_unit: float = 100.0
    """How many centimetres a unit of the scene counts as."""

    def __post_init__(self) -> None:
        counts = (self.hypotheses, self.refine + 1, self.max_error, self.alpha, self.cm_per_unit)
        if min(counts) <= 0 or not 0 <= self.least_chance < 1 or (self.scale is not None and self.scale <= 0):
            raise ValueError(f"numbers of RANSAC are positive, least_chance below 1: {self}")
        if self.measure not in ("max", "sum"):
            raise ValueError(f"measure {self.measure!r} is not one of max, sum")


@dataclass(frozen=True, eq=False)
class Expected:
    """The expected loss of one picture, and what it is made of."""

    loss: Tensor
    """Σ P_j loss_j, a scalar; 0 without any hypothesis."""
    chances_H: Tensor
    """P = softmax(scores)."""
    losses_H: Tensor
    rotation_H33: Tensor
    """`map_from_cam`, the likelier ones refined."""
    centre_H3: Tensor

    @property
    def entropy(self) -> Tensor:
        """Of the choice, in nats: 0 when it is sure."""
        return -(self.chances_H * self.chances_H.clamp_min(1e-300).log()).sum()


def expected_loss(
    points_N3: Tensor,
    sight: Sight,
    truth: tuple[Tensor, Tensor],
    ransac: Ransac,
    *,
    generator: torch.Generator,
    score: Score | None = None,
) -> Expected:
    """Σ_j P_j loss_j over hypotheses j of one picture, P = softmax(scores) (DSAC 2017, eq. 9).

    Autograd of this expression is the papers' gradient Σ P_j (∂loss_j + loss_j ∂log P_j), by way of the hypotheses
    (minimal, for the scores; refined, for the losses) and by way of the errors of all points.

    Args:
        points_N3: scene coordinates in the frame of the map, with gradients.
        truth: rotation (3, 3) and centre (3,) of `map_from_cam`.
        score: makes scores of errors; None counts inliers softly.
    """
    points = points_N3.double()
    found = sampled(points, sight, ransac.hypotheses, max_error=ransac.max_error, generator=generator)
    pose = moving(points, sight, found)
    away = errors(sight, in_camera(points, pose))
    scores = soft_inliers(away, ransac.max_error, alpha=ransac.alpha) if score is None else score(away)
    chances = torch.softmax(scores, dim=0)
    rotation, centre = _with_refined(points, sight, pose, chances.detach(), ransac)
    losses = pose_losses(rotation, centre, truth, measure=ransac.measure, cm_per_unit=ransac.cm_per_unit)
    return Expected((chances * losses).sum(), chances, losses, rotation, centre)


def pose_losses(
    rotation_H33: Tensor,
    centre_H3: Tensor,
    truth: tuple[Tensor, Tensor],
    *,
    measure: Measure = "max",
    cm_per_unit: float = 100.0,
) -> Tensor:
    """(H,) how far poses `map_from_cam` are from the truth.

    `max`: max(degrees, centimetres) (DSAC 2017, eq. 10). `sum`: degrees + centimetres, above 100 the root of 100 times
    that (DSAC*, whose weights 1 and 100 we read as of degrees and metres). At the truth the gradient is 0.
    """
    turned = torch.rad2deg(rotation_angle_rad(rotation_H33.mT @ truth[0].to(rotation_H33)))
    away = cm_per_unit * torch.linalg.vector_norm(centre_H3 - truth[1].to(centre_H3), dim=-1)
    if measure == "max":
        return torch.maximum(turned, away)
    total = turned + away
    return torch.where(total > _SOFT, (_SOFT * total.clamp_min(_SOFT)).sqrt(), total)


def _with_refined(points_N3: Tensor, sight: Sight, pose: Poses, chances_H: Tensor, ransac: Ransac) -> Poses:
    """The poses, the likeliest ones refined."""
    order = torch.argsort(chances_H, descending=True, stable=True)[: ransac.refine]
    chosen = order[chances_H[order] >= ransac.least_chance]
    if not len(chosen):
        return pose
    likely = (pose[0][chosen], pose[1][chosen])
    better = refined(points_N3, sight, likely, max_error=ransac.max_error, scale=ransac.scale)
    return pose[0].index_copy(0, chosen, better.rotation_H33), pose[1].index_copy(0, chosen, better.centre_H3)
