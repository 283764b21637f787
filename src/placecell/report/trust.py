"""The part of the report about what answers say of themselves: is the order right, is the size, and who was fooled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from placecell.log import Log
from placecell.metrics import Threshold, nees, percent
from placecell.pose import Array, PoseError
from placecell.reliability import (
    LEVELS,
    ause,
    confidence_bins,
    is_hit,
    rank_correlation,
    sparsification,
    within_quantiles,
)
from placecell.report import plots
from placecell.report.errormap import WIDTH, Plane
from placecell.report.judged import Judged, ground_axes
from placecell.report.pictures import worst_cards
from placecell.report.ramp import Ramp
from placecell.report.wording import angle, length, round_length, text
from placecell.report.wording import threshold as threshold_told
from placecell.scene import Scene, centres, sequences
from placecell.spacing import even_places, evenly

_FOOLED = 6
_ELLIPSES = 200
_DEVIATIONS = 2.0
_OUTLINE = np.column_stack([np.cos(turn := np.linspace(0, 2 * np.pi, 33)), np.sin(turn)])


def trust_section(scene: Scene, judged: Sequence[Judged], threshold: Threshold | None, log: Log) -> str:
    """Sparsification, reliability, error against predicted error, ellipses and the most confidently wrong frames.

    Empty when no answer carries a usable covariance.

    Args:
        threshold: what confidences are about; None draws none.
    """
    stated = [(item, sigma) for item in judged if (sigma := item.estimate.sigma) is not None]
    if len(stated) < 2:
        return ""
    charts = _order(stated) + _size(stated) + _confidence(judged, threshold) + _scatter(scene, stated)
    fooled = most_fooled(stated, _FOOLED)
    cards = f'<div class="cards">{worst_cards(scene, fooled, judged, log)}</div>'
    return (
        '<section id="trust"><h2>Does it know how far off it is?</h2>'
        f"<p class='remark'>{_said(stated)}</p><div class='charts'>{charts}</div>{_ellipses(scene, stated)}</section>"
        '<section id="fooled"><h2>The most confidently wrong</h2><p class="remark">The largest errors in multiples of '
        f"the error that was predicted, by position or rotation.</p>{cards}</section>"
    )


def most_fooled(stated: Sequence[tuple[Judged, PoseError]], count: int) -> list[Judged]:
    """The frames whose error is largest in multiples of the predicted one, by position or rotation."""
    ratios = np.array([np.divide(item.error, sigma).max() for item, sigma in stated])
    return [stated[index][0] for index in np.argsort(-ratios, kind="stable")[:count]]


def _columns(stated: Sequence[tuple[Judged, PoseError]]) -> tuple[Array, Array]:
    """(N, 2) true and predicted errors."""
    return np.array([item.error for item, _ in stated]), np.array([sigma for _, sigma in stated])


def _said(stated: Sequence[tuple[Judged, PoseError]]) -> str:
    error, sigma = _columns(stated)
    told = [
        f"{name}: rank correlation {rank_correlation(sigma[:, k], error[:, k]):.2f}, "
        f"AUSE {ause(error[:, k], sigma[:, k]):.2f}"
        for k, name in enumerate(("position", "rotation"))
    ]
    return (
        f"Predicted against true error of {len(stated)} answers. {'; '.join(told)}. AUSE is the area between the lines "
        "of predicted error and of the oracle: 0 is the oracle's order, 1 is random order. The rings are "
        f"{_DEVIATIONS:g} standard deviations of the camera centre, seen from above."
    )


def _order(stated: Sequence[tuple[Judged, PoseError]]) -> str:
    error, sigma = _columns(stated)
    found = ""
    for k, name in enumerate(("position", "rotation")):
        curve = sparsification(error[:, k], sigma[:, k])
        whole = max(float(curve.oracle[0]), 1e-12)
        thin = even_places(len(curve.removed), 100)
        lines: dict[str, tuple[ArrayLike, ArrayLike]] = {
            "by predicted error": (curve.removed[thin], curve.by_sigma[thin] / whole),
            "oracle": (curve.removed[thin], curve.oracle[thin] / whole),
            "random": ([0.0, 1.0], [1.0, 1.0]),
        }
        title = f"Sparsification, {name}: predicted (bold), oracle, random"
        found += plots.shares(lines, title, "least sure frames removed", "mean error of the rest")
    return found


def _size(stated: Sequence[tuple[Judged, PoseError]]) -> str:
    shares = within_quantiles([nees(item.estimate, item.truth) for item, _ in stated])
    dots = [
        plots.Dot(level, share, f"{percent(share)} % inside the {level:.0%} ellipsoid")
        for level, share in zip(LEVELS, shares, strict=True)
    ]
    lines = {"covariances": (LEVELS, shares)}
    title = "Reliability of covariances: below the line is overconfident"
    return plots.shares(lines, title, "ellipsoid that should hold so many", "holds", dots=dots, diagonal=True)


def _confidence(judged: Sequence[Judged], threshold: Threshold | None) -> str:
    """Empty without confidences."""
    told = [item for item in judged if item.estimate.confidence is not None and item.answer is not None]
    if not told or threshold is None:
        return ""
    hits = [is_hit(item.estimate, item.truth, threshold) for item in told]
    bins = confidence_bins([item.estimate.confidence or 0.0 for item in told], hits)
    dots = [
        plots.Dot(b.confidence, b.hits, f"{b.frames} answers", radius=2.5 + 6.0 * float(np.sqrt(b.frames / len(told))))
        for b in bins
    ]
    lines = {"confidence": ([b.confidence for b in bins], [b.hits for b in bins])}
    title = f"Reliability of confidence, against {text(threshold_told(threshold.name))}"
    return plots.shares(lines, title, "confidence", "share that was right", dots=dots, diagonal=True)


def _scatter(scene: Scene, stated: Sequence[tuple[Judged, PoseError]]) -> str:
    ramp = Ramp.of([item.error.distance for item, _ in stated])

    def note(item: Judged, sigma: PoseError) -> str:
        told = f"{length(item.error.distance, scene.unit)}, predicted {length(sigma.distance, scene.unit)}"
        return f"{item.frame.name}: {told}; {angle(item.error.angle_deg)}, predicted {angle(sigma.angle_deg)}"

    dots = [
        plots.Dot(sigma.distance, item.error.distance, note(item, sigma), ramp.colour(item.error.distance), 2.4)
        for item, sigma in stated
    ]

    def shown(value: float) -> str:
        return round_length(value, scene.unit)

    return plots.cloud(dots, "Position error against what was predicted", "predicted", "true", shown)


def _ellipses(scene: Scene, stated: Sequence[tuple[Judged, PoseError]]) -> str:
    """The answers' centres from above with their covariance, over the paths of the training frames."""
    axes = ground_axes([frame.world_from_cam for frame in scene.posed if frame.world_from_cam is not None])[:2]
    chosen = [item for item, _ in evenly(stated, _ELLIPSES)]
    paths = [centres(group) @ axes.T for group in sequences([f for f in scene.posed if f.split == "train"]).values()]
    truths = np.array([item.truth.translation for item in chosen]) @ axes.T
    page, ramp = Plane(np.vstack([truths, *paths])), Ramp.of([item.error.distance for item in chosen])
    parts = [f'<polyline class="trainpath" points="{page.line(path)}"/>' for path in paths]
    for item in chosen:
        colour = ramp.colour(item.error.distance)
        ring = page.line(ring_of(item, axes))
        note = text(f"{item.frame.name}: {length(item.error.distance, scene.unit)}")
        parts.append(f'<polygon class="ellipse" fill="{colour}" stroke="{colour}" points="{ring}">')
        parts.append(f"<title>{note}</title></polygon>")
    parts.append(page.scale_bar(scene.unit))
    return (
        "<figure><figcaption>Where it says it is, and how surely</figcaption>"
        f'<svg class="map" viewBox="0 0 {WIDTH:.0f} {page.height:.0f}" role="img" '
        f'aria-label="answers with the ellipses of their covariance, from above">{"".join(parts)}</svg></figure>'
    )


def ring_of(item: Judged, axes: Array) -> Array:
    """(33, 2) the outline of an answer's centre at two standard deviations, on the plane of `axes` (2, 3)."""
    if item.answer is None or item.estimate.covariance is None:
        raise ValueError(f"{item.frame.name} has no covariance to draw")
    flat = axes @ item.answer.rotation
    root = np.linalg.cholesky(flat @ item.estimate.covariance[3:, 3:] @ flat.T)
    ring: Array = axes @ item.answer.translation + _DEVIATIONS * _OUTLINE @ root.T
    return ring
