"""The loss of a picture's pose, expected over the hypotheses that RANSAC chooses between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from placecell.families.coordinates.dsac.hypotheses import Hypotheses, moving, sampled
from placecell.families.coordinates.dsac.optimum import Poses, Scale, errors, in_camera
from placecell.families.coordinates.dsac.refining import refined
from placecell.families.coordinates.dsac.scores import soft_inliers
from placecell.families.coordinates.dsac.sights import Sight
from placecell.geometry_torch import rotation_angle_rad

Measure = Literal["max", "sum"]
Score = Callable[[Tensor], Tensor]
"""(H, N) errors to (H,) scores."""


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
    soft: float = 100.0
    """A sum above this grows with its root only, so that pictures far off do not drown the others (DSAC*)."""
    cm_per_unit: float = 100.0
    """How many centimetres a unit of the scene counts as."""

    def __post_init__(self) -> None:
        counts = (self.hypotheses, self.refine + 1, self.max_error, self.alpha, self.cm_per_unit, self.soft)
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


class Picture(NamedTuple):
    """What an expectation is of."""

    points_N3: Tensor
    """Scene coordinates in the frame of the map, with gradients."""
    sight: Sight
    rotation_33: Tensor
    """True, of `map_from_cam`."""
    centre_3: Tensor
    generator: torch.Generator
    """Of the CPU: which samples are drawn."""
    noise_N: Tensor | None = None
    """Scale of Cauchy's kernel at each point, in place of `Ransac.scale`; with gradients or without."""


def expected_loss(
    points_N3: Tensor,
    sight: Sight,
    truth: tuple[Tensor, Tensor],
    ransac: Ransac,
    *,
    generator: torch.Generator,
    score: Score | None = None,
    noise_N: Tensor | None = None,
) -> Expected:
    """`expected_losses` of one picture."""
    (found,) = expected_losses([Picture(points_N3, sight, *truth, generator, noise_N)], ransac, score=score)
    return found


def expected_losses(pictures: Sequence[Picture], ransac: Ransac, *, score: Score | None = None) -> list[Expected]:
    """Σ_j P_j loss_j over hypotheses j of each picture, P = softmax(scores) (DSAC 2017, eq. 9).

    Autograd of this expression is the papers' gradient Σ P_j (∂loss_j + loss_j ∂log P_j), by way of the hypotheses
    (minimal, for the scores; refined, for the losses) and by way of the errors of all points. All pictures are worked
    on at once, which is several times faster than one after the other, and changes no number.

    Args:
        pictures: with as many points each, of one kind of sight, all with noise or none.
        score: makes scores of errors; None counts inliers softly.
    """
    points_BN3 = torch.stack([picture.points_N3 for picture in pictures]).double()
    found = [_sampled(picture, ransac) for picture in pictures]
    counts = [len(one.rotation_H33) for one in found]
    of_H = torch.arange(len(pictures)).repeat_interleave(torch.tensor(counts)).to(points_BN3.device)
    points, sight = points_BN3[of_H], type(pictures[0].sight).joined([one.sight for one in pictures], of_H)
    pose = moving(points, sight, Hypotheses(*(torch.cat(parts) for parts in zip(*found, strict=True))))
    away = errors(sight, in_camera(points, pose))
    scores = soft_inliers(away, ransac.max_error, alpha=ransac.alpha) if score is None else score(away)
    chances = torch.cat([torch.softmax(part, dim=0) for part in torch.split(scores, counts)])
    likely = _likely(chances.detach(), counts, ransac)
    scale: Scale = ransac.scale
    if pictures[0].noise_N is not None:
        scale = torch.stack([one.noise_N for one in pictures if one.noise_N is not None]).double()[of_H[likely]]
    rotation, centre = _with_refined(points, sight, pose, likely, ransac.max_error, scale)
    split = zip(*(torch.split(part, counts) for part in (chances, rotation, centre)), strict=True)
    return [_judged(picture, ransac, *one) for picture, one in zip(pictures, split, strict=True)]


def told_of(found: Sequence[Expected], nothing: Tensor) -> dict[str, Tensor]:
    """What a training is told of some pictures: `loss`, the mean of those with hypotheses; that of their best ones, how
    unsure the choice was (nats), and how many pictures have none.

    Args:
        nothing: a zero that belongs to the graph, for batches without any hypothesis.
    """
    solved = [one for one in found if len(one.losses_H)]
    losses = [one.loss.float() for one in solved] or [nothing]
    with torch.no_grad():
        best = [one.losses_H.min().float() for one in solved] or [nothing]
        entropy = [one.entropy.float() for one in solved] or [nothing]
        lost = nothing + len(found) - len(solved)
    means = (torch.stack(values).mean() for values in (losses, best, entropy))
    return {**dict(zip(("loss", "best", "entropy"), means, strict=True)), "lost": lost}


def _sampled(picture: Picture, ransac: Ransac) -> Hypotheses:
    told: dict[str, Any] = {"max_error": ransac.max_error, "generator": picture.generator}
    return sampled(picture.points_N3, picture.sight, ransac.hypotheses, **told)


def _judged(picture: Picture, ransac: Ransac, chances_H: Tensor, rotation_H33: Tensor, centre_H3: Tensor) -> Expected:
    truth = (picture.rotation_33, picture.centre_3)
    how: dict[str, Any] = {"measure": ransac.measure, "cm_per_unit": ransac.cm_per_unit, "soft": ransac.soft}
    losses = pose_losses(rotation_H33, centre_H3, truth, **how)
    return Expected((chances_H * losses).sum(), chances_H, losses, rotation_H33, centre_H3)


def pose_losses(
    rotation_H33: Tensor,
    centre_H3: Tensor,
    truth: tuple[Tensor, Tensor],
    *,
    measure: Measure = "max",
    cm_per_unit: float = 100.0,
    soft: float = 100.0,
) -> Tensor:
    """(H,) how far poses `map_from_cam` are from the truth.

    `max`: max(degrees, centimetres) (DSAC 2017, eq. 10). `sum`: degrees + centimetres s, above `soft` √(soft s)
    (DSAC*, whose weights 1 and 100 we read as of degrees and metres). At the truth the gradient is 0.
    """
    turned = torch.rad2deg(rotation_angle_rad(rotation_H33.mT @ truth[0].to(rotation_H33)))
    away = cm_per_unit * torch.linalg.vector_norm(centre_H3 - truth[1].to(centre_H3), dim=-1)
    if measure == "max":
        return torch.maximum(turned, away)
    total = turned + away
    return torch.where(total > soft, (soft * total.clamp_min(soft)).sqrt(), total)


def _likely(chances_H: Tensor, counts: Sequence[int], ransac: Ransac) -> Tensor:
    """Which hypotheses are refined: the likeliest of each picture."""
    chosen, begin = [], 0
    for part in torch.split(chances_H, list(counts)):
        order = torch.argsort(part, descending=True, stable=True)[: ransac.refine]
        chosen.append(begin + order[part[order] >= ransac.least_chance])
        begin += len(part)
    return torch.cat(chosen)


def _with_refined(
    points_HN3: Tensor, sight: Sight, pose: Poses, chosen: Tensor, max_error: float, scale: Scale
) -> Poses:
    """The poses, the chosen ones refined."""
    if not len(chosen):
        return pose
    better = refined(
        points_HN3[chosen], sight.only(chosen), (pose[0][chosen], pose[1][chosen]), max_error=max_error, scale=scale
    )
    return pose[0].index_copy(0, chosen, better.rotation_H33), pose[1].index_copy(0, chosen, better.centre_H3)
