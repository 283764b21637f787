"""`Calibration`: learned from a map's answers to pictures it had not seen, applied to all it answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from placecell.calibration.confidence import Confidence, accept_at, fit_confidence
from placecell.calibration.conformal import Conformal, LeftOut, fit_conformal, left_out
from placecell.calibration.evidence import Scale, fit_scale, raw_evidence
from placecell.calibration.familiarity import Familiarity, fit_familiarity
from placecell.calibration.scaling import Scaling, fit_scaling, typical
from placecell.calibration.widening import Widening, fit_widening
from placecell.errors import MapError
from placecell.estimate import Estimate
from placecell.metrics import Threshold
from placecell.pose import Array, Pose, pose_error
from placecell.reliability import is_hit

COVERAGE = 0.9
LEAST = 50
"""Answers to calibrate on. Of 50 independent ones, a 90 % radius covers 81 to 97 % of what comes later (19 times of 20,
by its beta distribution), and an axis is scaled to within a sixth; of fewer, neither is worth a promise."""
METRIC_THRESHOLD = Threshold("10cm/5deg", 0.10, 5.0)


class Answered(NamedTuple):
    """An answer to an unseen picture, and the truth."""

    estimate: Estimate
    truth: Pose | None
    """None for a picture of elsewhere: every answer to it is wrong."""
    nearness: float = math.nan
    """To the training pictures (`calibration.features`); NaN where the map has no such vectors."""
    sequence: str = ""
    """That the picture is of."""


@dataclass(frozen=True)
class Calibration:
    """How answers of a map are corrected, and what is said of them."""

    threshold: Threshold
    """What confidence is about; its lengths are in the unit of the scene."""
    typical: tuple[float, ...] | None
    """(6,) standard deviations of the answers of a map that states no covariances; None of others."""
    widening: Widening
    scaling: Scaling
    conformal: Conformal
    scale: Scale
    confidence: Confidence
    familiarity: Familiarity
    left_out: LeftOut | None
    """What the radii are worth for a sequence that did not make them; None of fewer than three."""
    accept_at: float
    """Accepted at this confidence or more, 99 % of the answers calibrated on were right; 1 when none was enough."""
    frames: int
    """Unseen pictures calibrated on, as taken."""
    answered: int
    damaged: int
    elsewhere: int

    def apply(self, estimates: Sequence[Estimate], nearness: Array | None = None) -> list[Estimate]:
        """The estimates with covariances corrected, radii, confidence and familiarity; the last two 0 for a refusal.

        A covariance that cannot be inverted is left out, and counts as the least sure there is.

        Args:
            nearness: (N,) of their pictures, for maps that see pictures as vectors.
        """
        stated = [_stated(estimate, self.typical) for estimate in estimates]
        scaled = [self._scaled(estimate) for estimate in self.widening.apply(stated, nearness)]
        evidence = self.scale.evidence(raw_evidence(scaled, nearness))
        confidence, familiarity = self.confidence.apply(evidence), self.familiarity.apply(evidence)
        return [
            replace(
                estimate,
                confidence=float(sure) if estimate.world_from_cam is not None else 0.0,
                familiarity=float(known) if estimate.world_from_cam is not None else 0.0,
            )
            for estimate, sure, known in zip(scaled, confidence, familiarity, strict=True)
        ]

    def _scaled(self, estimate: Estimate) -> Estimate:
        if estimate.world_from_cam is None:
            return estimate
        scaled = replace(estimate, covariance=self.scaling.apply(estimate.covariance))
        return replace(scaled, radii=self.conformal.radii(scaled.sigma))


def _stated(estimate: Estimate, typical: tuple[float, ...] | None) -> Estimate:
    """The estimate with the covariance that its map states, or the usual one of a map that states none."""
    if estimate.world_from_cam is None or typical is None:
        return estimate
    return replace(estimate, covariance=np.diag(np.square(typical)))


def fit_calibration(
    taken: Sequence[Answered],
    harder: Sequence[Answered] = (),
    *,
    threshold: Threshold = METRIC_THRESHOLD,
    coverage: float = COVERAGE,
) -> Calibration:
    """Calibrate on answers to pictures that the map, or one built alike, had not seen.

    How errors grow with what speaks against answers, and confidence, are learned from all of them; what is usual, how
    large covariances are, radii and familiarity from the pictures as they were taken.

    Args:
        taken: pictures of the place, as taken.
        harder: damaged ones and ones of elsewhere, so that wrong answers are met, too.

    Raises:
        MapError: fewer than 50 of the pictures as taken got an answer, or most answers lack a covariance and the few
            are no help.
    """
    placed = [item for item in taken if item.estimate.world_from_cam is not None]
    if len(placed) < LEAST:
        raise MapError(
            f"{len(placed)} of {len(taken)} unseen pictures got an answer, {LEAST} are needed to calibrate on; "
            "hold out more sequences"
        )
    residuals = np.array([_residual(item) for item in placed])
    usual = typical(residuals, [item.estimate.covariance for item in placed])
    answers = _Answers.stated(placed, [item for item in harder if item.estimate.world_from_cam is not None], usual)
    widening = _widening(answers)
    widened = answers.widened(widening)
    scaling = fit_scaling(residuals, [item.estimate.covariance for item in widened.taken])
    scaled, hard = widened.scaled(scaling)
    scale = fit_scale(_raw(scaled))
    conformal, held = _radii(scaled, coverage)
    ours, worse = (_Judged.of(group, scale, threshold) for group in (scaled, hard))
    judged = ours.joined(worse)
    confidence = fit_confidence(judged.evidence, judged.hits)
    return Calibration(
        threshold=threshold,
        typical=usual,
        widening=widening,
        scaling=scaling,
        conformal=conformal,
        left_out=held,
        scale=scale,
        confidence=confidence,
        familiarity=fit_familiarity(ours.evidence),
        accept_at=_accept_at(confidence, ours, worse, np.array([item.truth is None for item in hard], dtype=bool)),
        frames=len(taken),
        answered=len(placed),
        damaged=sum(item.truth is not None for item in harder),
        elsewhere=sum(item.truth is None for item in harder),
    )


class _Answers(NamedTuple):
    """Answers with poses: to pictures as taken, and to harder ones."""

    taken: list[Answered]
    harder: list[Answered]

    @classmethod
    def stated(cls, taken: Sequence[Answered], harder: Sequence[Answered], usual: tuple[float, ...] | None) -> _Answers:
        """With the covariances that the map states."""
        return cls(*([i._replace(estimate=_stated(i.estimate, usual)) for i in group] for group in (taken, harder)))

    def widened(self, widening: Widening) -> _Answers:
        return _Answers(*(_with(group, widening.apply(*_seen(group))) for group in self))

    def scaled(self, scaling: Scaling) -> _Answers:
        return _Answers(
            *(
                _with(group, [replace(i.estimate, covariance=scaling.apply(i.estimate.covariance)) for i in group])
                for group in self
            )
        )


def _seen(items: Sequence[Answered]) -> tuple[list[Estimate], Array]:
    return [item.estimate for item in items], np.array([item.nearness for item in items], np.float64)


def _with(items: Sequence[Answered], estimates: Sequence[Estimate]) -> list[Answered]:
    return [item._replace(estimate=estimate) for item, estimate in zip(items, estimates, strict=True)]


def _widening(answers: _Answers) -> Widening:
    """From those whose error is known and predicted."""
    taken = [item for item in answers.taken if item.estimate.sigma is not None]
    both = taken + [item for item in answers.harder if item.truth is not None and item.estimate.sigma is not None]
    errors = np.array([pose_error(item.estimate.world_from_cam, _truth(item)) for item in both], np.float64)
    return fit_widening(*_seen(both), errors, taken=len(taken))


class _Judged(NamedTuple):
    """Answers as confidence sees them."""

    evidence: Array
    """(N, K)."""
    hits: Array
    """(N,) 1 where the answer is below the threshold."""
    sequences: NDArray[np.str_]
    """(N,), empty for pictures of elsewhere."""

    @classmethod
    def of(cls, items: Sequence[Answered], scale: Scale, threshold: Threshold) -> _Judged:
        hits = [is_hit(item.estimate, item.truth, threshold) for item in items]
        names = np.array([item.sequence for item in items], dtype=np.str_)
        return cls(scale.evidence(_raw(items)), np.array(hits, dtype=np.float64), names)

    def joined(self, other: _Judged) -> _Judged:
        return _Judged(
            np.concatenate([self.evidence, other.evidence]),
            np.concatenate([self.hits, other.hits]),
            np.concatenate([self.sequences, other.sequences]),
        )

    def kept(self, mask: NDArray[np.bool_]) -> _Judged:
        return _Judged(self.evidence[mask], self.hits[mask], self.sequences[mask])


def _radii(scaled: Sequence[Answered], coverage: float) -> tuple[Conformal, LeftOut | None]:
    told = [(item, sigma) for item in scaled if (sigma := item.estimate.sigma) is not None]
    errors = [pose_error(item.estimate.world_from_cam, _truth(item)) for item, _ in told]
    predicted = [sigma for _, sigma in told]
    try:
        found = fit_conformal(errors, predicted, coverage)
    except ValueError as error:
        raise MapError(f"{error}; hold out more sequences, or ask for less coverage") from error
    return found, left_out(errors, predicted, [item.sequence for item, _ in told], coverage)


def _accept_at(confidence: Confidence, usual: _Judged, worse: _Judged, away: NDArray[np.bool_]) -> float:
    """Pictures of elsewhere may come among those as taken and among the damaged ones: each has to bear them."""
    groups = [usual] + ([damaged] if len((damaged := worse.kept(~away)).hits) else [])
    mixed, judged = [group.joined(worse.kept(away)) for group in groups], usual.joined(worse)
    return accept_at([(_foreseen(confidence, judged, group), group.hits) for group in mixed])


def _foreseen(confidence: Confidence, judged: _Judged, group: _Judged) -> Array:
    """(N,) the confidence of each answer of a group by what the other sequences teach: what is accepted later is of a
    sequence that taught nothing, and neighbours that are wrong together are foreseen by none of the others."""
    found = confidence.apply(group.evidence)
    names = set(judged.sequences.tolist()) - {""}
    for name in names if len(names) > 1 else ():
        own, rest = group.sequences == name, judged.kept(np.asarray(judged.sequences != name, dtype=bool))
        found[own] = fit_confidence(rest.evidence, rest.hits).apply(group.evidence[own])
    return found


def _raw(items: Sequence[Answered]) -> Array:
    return raw_evidence(*_seen(items))


def _truth(item: Answered) -> Pose:
    if item.truth is None:
        raise ValueError(f"{item.estimate.name}: a picture as taken needs its true pose")
    return item.truth


def _residual(item: Answered) -> Array:
    """ξ with truth = answer · exp(ξ)."""
    if item.estimate.world_from_cam is None:
        raise ValueError(f"{item.estimate.name} has no pose")
    return (item.estimate.world_from_cam.inv @ _truth(item)).log()
