"""How good the answers are: predictions and truths in, numbers out; nothing here runs a model.

Every frame that was asked counts. A refused or missing one has the error (inf, 180 deg), so the median of a localizer
that refuses half of its frames is infinite. Angles are full angles of the relative rotation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from placecell.errors import SceneError
from placecell.estimate import Estimate
from placecell.pose import Array, Pose, PoseError, pose_error
from placecell.spacing import even_places


class Threshold(NamedTuple):
    """A frame is recalled when its distance is below `distance_m` and its angle below `angle_deg`, both strictly."""

    name: str
    distance_m: float
    angle_deg: float


THRESHOLDS = (
    Threshold("1cm/1deg", 0.01, 1.0),
    Threshold("2cm/2deg", 0.02, 2.0),
    Threshold("5cm/5deg", 0.05, 5.0),
    Threshold("10cm/5deg", 0.10, 5.0),
    Threshold("25cm/2deg", 0.25, 2.0),
    Threshold("25cm/10deg", 0.25, 10.0),
    Threshold("50cm/5deg", 0.50, 5.0),
    Threshold("2m/5deg", 2.0, 5.0),
    Threshold("5m/10deg", 5.0, 10.0),
)

# Quantiles of chi-squared with 6 degrees of freedom (tests compare them with scipy's).
NEES_50, NEES_95 = 5.348120627447123, 12.591587243743977

_CURVE_POINTS = 200


@dataclass(frozen=True)
class Summary:
    """The figures of a group of frames."""

    frames: int
    """How many were asked."""
    answered: int
    median_distance: float
    """Of all frames, in the unit of the scene; inf when half of them or more have no answer."""
    median_angle_deg: float
    recalls: Mapping[str, float]
    """Share of all frames below each of `THRESHOLDS`, 0 to 1; empty when the scene has no metric scale."""


@dataclass(frozen=True)
class Curve:
    """A cumulative error curve, thinned to at most 200 points, each of them exact."""

    errors: tuple[float, ...]
    shares: tuple[float, ...]
    """Share of all asked frames whose error is at most the one beside it; ends below 1 where frames are refused."""


@dataclass(frozen=True)
class Nees:
    """Normalised estimation error squared, eᵀ Σ⁻¹ e of six dimensions, over the answers that carry a covariance.

    An honest covariance has mean 6, median 5.35 and shares of 0.50 and 0.95; larger means say that it is overconfident.
    """

    frames: int
    mean: float
    median: float
    within_50: float
    """Share of the errors inside the covariance's 50 % ellipsoid."""
    within_95: float


@dataclass(frozen=True)
class Evaluation:
    """What a set of predictions is worth against one ground truth."""

    overall: Summary
    scene: str
    labels: str
    """Which ground truth: figures against different ones cannot be compared."""
    unit: str
    """`m`, or `units` when the scale is arbitrary."""
    mean_distance: float | None
    """Mean over the answered frames alone (not a figure to rank by: refusing improves it); None without answers."""
    mean_angle_deg: float | None
    curves: Mapping[str, Curve]
    """`distance`, `angle_deg`, and for metric scenes `joint`: the larger of cm and degrees, so 5 means 5cm/5deg."""
    sequences: Mapping[str, Summary] = field(default_factory=dict)
    seconds_median: float | None = None
    seconds_p95: float | None = None
    nees: Nees | None = None
    errors: Mapping[str, PoseError] = field(default_factory=dict, repr=False)
    """By frame, every one that was asked."""

    @property
    def metric(self) -> bool:
        """Whether lengths are metres."""
        return self.unit == "m"


def evaluate(
    estimates: Sequence[Estimate],
    truths: Mapping[str, Pose],
    sequences: Mapping[str, str] | None = None,
    *,
    scene: str = "",
    labels: str = "",
    unit: str = "m",
) -> Evaluation:
    """Judge answers against the true `world_from_cam` of every frame that was asked.

    Args:
        truths: by frame name; a frame without an estimate counts as not answered.
        sequences: sequence of each frame, for a row each; None for no such rows.
        unit: `Scene.unit`; anything but `m` leaves the thresholds in metres out.

    Raises:
        SceneError: an estimate is of no frame of the scene, a frame is answered twice, or there is no truth at all.
    """
    answers = _by_name(estimates, truths)
    errors = {name: pose_error(_pose(answers.get(name)), truth) for name, truth in truths.items()}
    found = np.array([error for error in errors.values() if np.isfinite(error.distance)]).reshape(-1, 2)
    seconds = [estimate.seconds for estimate in estimates if estimate.seconds is not None]
    return Evaluation(
        overall=summary(errors.values(), metric=unit == "m"),
        scene=scene,
        labels=labels,
        unit=unit,
        mean_distance=float(found[:, 0].mean()) if len(found) else None,
        mean_angle_deg=float(found[:, 1].mean()) if len(found) else None,
        curves=_curves(found, len(errors), metric=unit == "m"),
        sequences=_by_sequence(errors, sequences, metric=unit == "m"),
        seconds_median=float(np.median(seconds)) if seconds else None,
        seconds_p95=float(np.percentile(seconds, 95)) if seconds else None,
        nees=_nees_summary(answers, truths),
        errors=errors,
    )


def summary(errors: Iterable[PoseError], *, metric: bool = True) -> Summary:
    """The figures of some errors, at least one; the median of an even number is the mean of the middle two."""
    values = np.array(list(errors), dtype=np.float64).reshape(-1, 2)
    distance, angle_deg = values.T
    recalls = {
        threshold.name: float(np.mean((distance < threshold.distance_m) & (angle_deg < threshold.angle_deg)))
        for threshold in THRESHOLDS
        if metric
    }
    return Summary(
        frames=len(values),
        answered=int(np.isfinite(distance).sum()),
        median_distance=_median(distance),
        median_angle_deg=_median(angle_deg),
        recalls=recalls,
    )


def nees(estimate: Estimate, truth: Pose) -> float:
    """ξᵀ Σ⁻¹ ξ with `truth = estimate @ exp(ξ)`, as docs/conventions.md defines Σ; inf when Σ is not positive definite.

    Raises:
        ValueError: the estimate has no pose or no covariance.
    """
    if estimate.world_from_cam is None or estimate.covariance is None:
        raise ValueError(f"{estimate.name} has no covariance to judge")
    error = (estimate.world_from_cam.inv @ truth).log()
    try:
        white = np.linalg.solve(np.linalg.cholesky(estimate.covariance), error)
    except np.linalg.LinAlgError:
        return float("inf")
    return float(white @ white)


def table(rows: Mapping[str, Evaluation]) -> str:
    """Evaluations of one scene and ground truth as plain text, a line each, under a line that says what they are.

    Raises:
        SceneError: the rows are of different scenes or ground truths, which cannot be compared.
    """
    kinds = {(row.scene, row.labels, row.unit) for row in rows.values()}
    if len(kinds) != 1:
        raise SceneError(f"rows of {len(kinds)} scenes or ground truths do not fit one table; print a table for each")
    scene, labels, unit = kinds.pop()
    factor, shown = (100.0, "cm") if unit == "m" else (1.0, unit)
    limits = THRESHOLDS if unit == "m" else ()
    heads = [threshold.name.split("/") for threshold in limits]
    lines = [
        ["", "", "", "median", "median", *(top for top, _ in heads)],
        ["", "frames", "answered", shown, "deg", *(bottom for _, bottom in heads)],
    ]
    for name, row in rows.items():
        all_frames = row.overall
        figures = (f"{all_frames.median_distance * factor:.2f}", f"{all_frames.median_angle_deg:.2f}")
        recalls = (percent(all_frames.recalls[threshold.name]) for threshold in limits)
        lines.append([name, str(all_frames.frames), str(all_frames.answered), *figures, *recalls])
    remark = "" if unit == "m" else "; no metric scale, so no recalls in metres"
    title = f"{scene or 'scene'}, ground truth {labels or 'not named'}, all frames count{remark}"
    return title + "\n" + _aligned(lines)


def percent(share: float) -> str:
    """A share as per cent with one digit, halves up: 0.9935 is 99.4 whatever its last binary digit says."""
    return f"{np.floor(round(share * 1000, 6) + 0.5) / 10:.1f}"


def _by_name(estimates: Sequence[Estimate], truths: Mapping[str, Pose]) -> dict[str, Estimate]:
    if not truths:
        raise SceneError("no frame with a known pose to judge by; give the scene labels, or another split")
    for name, times in Counter(estimate.name for estimate in estimates).items():
        if name not in truths:
            raise SceneError(f"{name} is answered but is no labelled frame of this scene; evaluate on its own scene")
        if times > 1:
            raise SceneError(f"{name} is answered {times} times; run localize again")
    return {estimate.name: estimate for estimate in estimates}


def _pose(estimate: Estimate | None) -> Pose | None:
    return None if estimate is None else estimate.world_from_cam


def _median(values: Array) -> float:
    # numpy averages the middle two; with both infinite that is inf, with one infinite it is inf too.
    return float(np.median(values))


def _by_sequence(
    errors: Mapping[str, PoseError], sequences: Mapping[str, str] | None, *, metric: bool
) -> dict[str, Summary]:
    groups: dict[str, list[PoseError]] = {}
    for name, error in errors.items() if sequences is not None else ():
        groups.setdefault((sequences or {}).get(name, ""), []).append(error)
    return {sequence: summary(groups[sequence], metric=metric) for sequence in sorted(groups)}


def _curves(found: Array, asked: int, *, metric: bool) -> dict[str, Curve]:
    curves = {"distance": _curve(found[:, 0], asked), "angle_deg": _curve(found[:, 1], asked)}
    if metric:
        curves["joint"] = _curve(np.maximum(found[:, 0] * 100.0, found[:, 1]), asked)
    return curves


def _curve(values: Array, asked: int) -> Curve:
    ordered = np.sort(values)
    errors = ordered[even_places(len(ordered), _CURVE_POINTS)]
    shares = np.searchsorted(ordered, errors, side="right") / asked
    return Curve(tuple(errors.tolist()), tuple(shares.tolist()))


def _nees_summary(answers: Mapping[str, Estimate], truths: Mapping[str, Pose]) -> Nees | None:
    values = np.array(
        [
            nees(answer, truths[name])
            for name, answer in answers.items()
            if answer.world_from_cam is not None and answer.covariance is not None
        ]
    )
    if not len(values):
        return None
    return Nees(
        frames=len(values),
        mean=float(values.mean()),
        median=float(np.median(values)),
        within_50=float((values < NEES_50).mean()),
        within_95=float((values < NEES_95).mean()),
    )


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in lines
    )
