"""A question and its answer: `Query`, `Estimate`, and predictions.jsonl (docs/formats.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.errors import FormatError
from placecell.pose import Array, Pose, PoseError
from placecell.scene import field_of, pose_from_json, pose_to_json


@dataclass(frozen=True, eq=False)
class Query:
    """A picture to place."""

    name: str
    image: NDArray[np.uint8] = field(repr=False)
    """(H, W, 3) RGB uint8, upright."""
    camera: Camera
    """Intrinsics at the size of the image."""
    depth_m: NDArray[np.float32] | None = field(default=None, repr=False)
    """(H, W) metres along z in the colour camera, NaN where unknown."""
    time_s: float | None = None

    @property
    def defect(self) -> str | None:
        """Why this picture cannot be placed by anything, or None."""
        image = self.image
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            return f"image is {image.dtype} {image.shape}, not uint8 (H, W, 3)"
        if (self.camera.width, self.camera.height) != (image.shape[1], image.shape[0]):
            return (
                f"camera is for {self.camera.width}x{self.camera.height} px, "
                f"the image has {image.shape[1]}x{image.shape[0]}; use camera.resized"
            )
        if min(image.shape[:2]) < 32:
            return f"image of {image.shape[1]}x{image.shape[0]} px is too small to place"
        if self.depth_m is not None and self.depth_m.shape != image.shape[:2]:
            return f"depth is {self.depth_m.shape}, the image {image.shape[:2]}; align the depth with the colour camera"
        if int(image.max()) - int(image.min()) < 8:
            return "image is blank"
        return None


class Radii(NamedTuple):
    """How far the truth may be from an answer: each of the two holds for the stated share of answers."""

    coverage: float
    distance: float
    """Between the camera centres, in the unit of the scene."""
    angle_deg: float


@dataclass(frozen=True, eq=False)
class Estimate:
    """Where a picture was taken, and how sure that is; or why there is no answer."""

    name: str
    world_from_cam: Pose | None
    covariance: Array | None = None
    """(6, 6), right perturbation of `world_from_cam` in camera axes, (rx ry rz tx ty tz), rad and scene unit."""
    confidence: float | None = None
    """Probability that the error is below the threshold of calibration.json; 0 without a pose, None when not
    calibrated."""
    inliers: int | None = None
    """Matches that agree with the pose; None of maps that match nothing."""
    reason: str | None = None
    """Why there is no pose; None when there is one."""
    seconds: float | None = None
    radii: Radii | None = None
    """Conformal: of a calibrated map."""
    familiarity: float | None = None
    """Share of pictures of the place that look at least as strange to the map (a p-value); None when not calibrated."""
    map: str | None = None
    """Of several maps asked, the one that answers: the pose is in its world."""
    also: tuple[str, ...] = ()
    """The others of them that take the picture for one of their place."""
    matches: int | None = None
    """All matches that the pose was found among, those that agree with it and those that do not."""

    def __post_init__(self) -> None:
        if (self.world_from_cam is None) == (self.reason is None):
            raise ValueError("an estimate has either a pose or a reason")
        if self.covariance is not None and not _is_covariance(self.covariance):
            raise ValueError("a covariance is (6, 6), finite and symmetric")

    @property
    def sigma(self) -> PoseError | None:
        """Predicted error: sqrt of the trace of the position and of the rotation block; None where Σ is not usable."""
        if self.covariance is None or not is_definite(self.covariance):
            return None
        variance = np.diag(self.covariance)
        return PoseError(float(np.sqrt(variance[3:].sum())), float(np.degrees(np.sqrt(variance[:3].sum()))))

    @classmethod
    def refusal(cls, name: str, reason: str, seconds: float | None = None) -> Estimate:
        """The answer of a picture that could not be placed."""
        return cls(name, None, reason=reason, seconds=seconds)


_SCALARS = (
    ("confidence", float),
    ("inliers", int),
    ("matches", int),
    ("reason", str),
    ("seconds", float),
    ("map", str),
)


def estimate_to_json(estimate: Estimate) -> dict[str, Any]:
    """One line of predictions.jsonl; the covariance as its 21 upper-triangle values, row by row."""
    row: dict[str, Any] = {"name": estimate.name, **pose_to_json(estimate.world_from_cam)}
    if estimate.covariance is not None:
        row["covariance"] = estimate.covariance[np.triu_indices(6)].tolist()
    for key, kind in _SCALARS:
        value = getattr(estimate, key)
        if value is not None:
            row[key] = kind(value)  # numpy scalars are not JSON
    if estimate.radii is not None:
        row["radii"] = {key: float(value) for key, value in estimate.radii._asdict().items()}
    if estimate.familiarity is not None:
        row["familiarity"] = float(estimate.familiarity)
    if estimate.also:
        row["also"] = list(estimate.also)
    return row


def estimate_from_json(row: dict[str, Any]) -> Estimate:
    """Inverse of `estimate_to_json`."""
    covariance = None
    if row.get("covariance") is not None:
        covariance = np.zeros((6, 6))
        covariance[np.triu_indices(6)] = row["covariance"]
        covariance = covariance + np.triu(covariance, 1).T
    return Estimate(
        name=field_of(row, "name", str),
        world_from_cam=pose_from_json(row),
        covariance=covariance,
        confidence=row.get("confidence"),
        inliers=row.get("inliers"),
        reason=row.get("reason"),
        seconds=row.get("seconds"),
        radii=_radii_from_json(row),
        familiarity=row.get("familiarity"),
        map=row.get("map"),
        also=tuple(map(str, row.get("also", ()))),
        matches=row.get("matches"),
    )


def _radii_from_json(row: dict[str, Any]) -> Radii | None:
    if row.get("radii") is None:
        return None
    return Radii(**{key: float(value) for key, value in field_of(row, "radii", dict).items()})


def is_definite(covariance: Array) -> bool:
    """Whether a (6, 6) covariance can be inverted: its correlations have no eigenvalue below 1e-9, the axes' units
    notwithstanding."""
    variance = np.diag(covariance)
    if not (np.isfinite(covariance).all() and (variance > 0).all()):
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = np.sqrt(variance)
        correlation = covariance / deviation / deviation[:, None]
    return bool(np.isfinite(correlation).all() and np.linalg.eigvalsh(correlation)[0] > 1e-9)


def _is_covariance(matrix: Array) -> bool:
    if matrix.shape != (6, 6) or not np.isfinite(matrix).all():
        return False
    return bool(np.abs(matrix - matrix.T).max() <= 1e-6 * np.abs(matrix).max())


def dump_predictions(estimates: Iterable[Estimate]) -> str:
    """The text of predictions.jsonl."""
    text = "".join(json.dumps(estimate_to_json(estimate), ensure_ascii=False) + "\n" for estimate in estimates)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # names that are not UTF-8 become JSON's \\udcXX


def read_predictions(path: Path, *, allow_partial_last: bool = False) -> list[Estimate]:
    """Read predictions.jsonl.

    Args:
        allow_partial_last: drop an unfinished last line, as an interrupted run leaves it.

    Raises:
        FormatError: a line is damaged (the text names it), a name comes twice, or the file is missing.
    """
    try:
        lines = path.read_bytes().split(b"\n")  # decoded line by line: a kill may cut a letter in two
    except OSError as error:
        raise FormatError(f"{path}: not readable ({error.strerror}); run localize again") from error
    if allow_partial_last:
        lines = lines[:-1]
    estimates: dict[str, Estimate] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            estimate = estimate_from_json(json.loads(line.decode("utf-8")))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path}:{number}: not a prediction ({error}); run localize again") from error
        if estimate.name in estimates:
            raise FormatError(f"{path}:{number}: {estimate.name} is answered twice; run localize again")
        estimates[estimate.name] = estimate
    return list(estimates.values())
