"""How far an exported map answers otherwise than the map it was made of, on training frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from placecell.estimate import Estimate
from placecell.pose import Pose, pose_error

ALLOWED = 0.03
"""Share of the median error that an export may lose."""


@dataclass(frozen=True)
class Parity:
    """Medians over some training frames, distances in the scene's unit; a refused frame counts as infinitely off."""

    frames: int
    distance: float
    """Of the export from the labels."""
    angle_deg: float
    reference_distance: float
    """Of the map itself, in torch and float32."""
    reference_angle_deg: float
    moved: float
    """Of the export from the map."""
    moved_deg: float
    sigma_moved: float | None
    """Share by which the stated standard deviation of the centre differs from the map's, either way; None where one of
    the two states none."""
    sigma_moved_deg: float | None
    """The same of the rotation."""
    refused: int
    """Frames that the export does not place."""
    reference_refused: int

    @classmethod
    def of(cls, found: Sequence[Estimate], reference: Sequence[Estimate], truths: Sequence[Pose]) -> Self:
        """The export's answers and the map's to the same frames."""
        ours = [pose_error(a.world_from_cam, truth) for a, truth in zip(found, truths, strict=True)]
        theirs = [pose_error(b.world_from_cam, truth) for b, truth in zip(reference, truths, strict=True)]
        both = [
            pose_error(a.world_from_cam, b.world_from_cam)
            for a, b in zip(found, reference, strict=True)
            if a.world_from_cam is not None and b.world_from_cam is not None
        ]
        medians = [
            float(np.median([getattr(error, key) for error in errors])) if errors else float("inf")
            for errors in (ours, theirs, both)
            for key in ("distance", "angle_deg")
        ]
        refused = [sum(answer.world_from_cam is None for answer in answers) for answers in (found, reference)]
        a, b, c, d, e, f = medians
        centre, rotation = (_sigma_moved(found, reference, axes) for axes in (slice(3, 6), slice(0, 3)))
        return cls(len(truths), a, b, c, d, e, f, centre, rotation, *refused)

    @property
    def loss(self) -> float:
        """Share of the median error that is lost, of the centre or of the rotation, the larger; below 0 where the
        export is the better by chance."""
        pairs = ((self.distance, self.reference_distance), (self.angle_deg, self.reference_angle_deg))
        return max(_share(ours, theirs) for ours, theirs in pairs)

    @property
    def close(self) -> bool:
        """Whether no more is lost than is allowed, and not by chance: of few frames the medians wobble, but moves that
        have nothing to do with the errors add to them as squares do."""
        added = ALLOWED * (2 + ALLOWED)  # (1 + a)² - 1
        pairs = ((self.moved, self.reference_distance), (self.moved_deg, self.reference_angle_deg))
        return self.loss <= ALLOWED and all(moved**2 <= added * error**2 for moved, error in pairs)

    @property
    def told(self) -> dict[str, Any]:
        """As map.json keeps it; infinite figures are the text inf."""
        values = {**asdict(self), "loss": self.loss}
        return {key: value if value is None or np.isfinite(value) else "inf" for key, value in values.items()}


def moves(found: Sequence[Estimate], reference: Sequence[Estimate], scale: Parity) -> float:
    """The mean square of how far answers are from others, in multiples of the errors of `scale`'s reference, at most 1
    of each picture; 1 of one that only one of the two places."""
    squares = []
    for a, b in zip(found, reference, strict=True):
        if a.world_from_cam is not None and b.world_from_cam is not None:
            error = pose_error(a.world_from_cam, b.world_from_cam)
            parts = (error.distance / scale.reference_distance, error.angle_deg / scale.reference_angle_deg)
            squares.append(min(1.0, max(parts) ** 2))
        elif a.world_from_cam is not None or b.world_from_cam is not None:
            squares.append(1.0)
    return float(np.mean(squares)) if squares else 0.0


def _sigma_moved(found: Sequence[Estimate], reference: Sequence[Estimate], axes: slice) -> float | None:
    stated = [
        (np.trace(a.covariance[axes, axes]), np.trace(b.covariance[axes, axes]))
        for a, b in zip(found, reference, strict=True)
        if a.covariance is not None and b.covariance is not None
    ]
    return float(np.median([abs(math.sqrt(ours / theirs) - 1.0) for ours, theirs in stated])) if stated else None


def _share(ours: float, theirs: float) -> float:
    if ours == theirs:
        return 0.0
    if not np.isfinite(theirs):
        return -1.0
    return ours / theirs - 1.0 if theirs > 0 else float("inf")
