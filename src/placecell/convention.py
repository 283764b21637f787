"""Which convention the poses of a scene seem to be in, told from its points and from its pictures.

Every wrong reading of a pose file that people report is a hypothesis: a function that takes the pose as it was stored
to the `world_from_cam` it would be had the file been read right. Two witnesses judge them: the points of the scene
have to project to where they were seen, and neighbouring pictures have to be turned against each other as their
essential matrix says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import poselib
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from placecell.camera import Camera
from placecell.errors import ImageError
from placecell.images import load_query, resize_image
from placecell.log import Log
from placecell.pose import Array, Pose, rotation_angle_deg
from placecell.scene import Frame, Scene, sequences
from placecell.sift import Sift, as_unit, match

_FLIP = Pose(np.diag([1.0, -1.0, -1.0]), np.zeros(3))
_OBSERVATIONS = 20_000
_PAIRS = 16
_PAIRS_NEEDED = 6
_MATCHES_NEEDED = 30
_LONG_SIDE_PX = 640


def _turned(pose: Pose, factor: float) -> Pose:
    rotvec = Rotation.from_matrix(pose.rotation).as_rotvec()
    return Pose(Rotation.from_rotvec(factor * rotvec).as_matrix(), pose.translation)


def _rolled(pose: Pose, places: int) -> Pose:
    return Pose.from_quat_wxyz(np.roll(pose.quat_wxyz, places), pose.translation)


STORED = "as stored"

HYPOTHESES: Mapping[str, Callable[[Pose], Pose]] = {
    STORED: lambda stored: stored,
    "inverted": lambda stored: stored.inv,
    "OpenGL axes": lambda stored: stored @ _FLIP,
    "inverted and OpenGL axes": lambda stored: stored.inv @ _FLIP,
    "rotation inverted, centre right": lambda stored: Pose(stored.rotation.T, stored.translation),
    "centre read as translation": lambda stored: Pose(stored.rotation, stored.inv.translation),
    "translation read as centre": lambda stored: Pose(stored.rotation, -stored.rotation @ stored.translation),
    "quaternion xyzw read as wxyz": lambda stored: _rolled(stored, 1),
    "quaternion wxyz read as xyzw": lambda stored: _rolled(stored, -1),
    "half the rotation angle": lambda stored: _turned(stored, 2.0),
    "double the rotation angle": lambda stored: _turned(stored, 0.5),
}
"""From the pose as stored to the `world_from_cam` it should be, by the mistake made."""

REMEDIES: Mapping[str, str] = {
    "inverted": "they are cam_from_world; invert them",
    "OpenGL axes": "y is up and z back; negate the second and third column of the rotations",
    "inverted and OpenGL axes": "invert them, then negate the second and third column of the rotations",
    "rotation inverted, centre right": "transpose the rotations and keep the centres (as Cambridge and NVM files need)",
    "centre read as translation": "the numbers are camera centres; do not multiply them by the rotation",
    "translation read as centre": "the numbers are t of cam_from_world; the centre is minus the rotation times them",
    "quaternion xyzw read as wxyz": "the file writes x y z w; move the last number to the front",
    "quaternion wxyz read as xyzw": "the file writes w x y z; move the first number to the end",
    "half the rotation angle": "double the angles (a half-angle logarithm was read as a rotation vector)",
    "double the rotation angle": "halve the angles",
}


@dataclass(frozen=True)
class Evidence:
    """What one witness says."""

    witness: str
    """`points` or `pictures`."""
    count: int
    """Observations or pairs of pictures that were judged."""
    scores: Mapping[str, float]
    """By hypothesis: share of the observations explained, or median angle in degrees."""
    verdict: str | None
    """The hypothesis that fits, or None when undecided."""
    text: str
    """One line for the user."""


class Turn(NamedTuple):
    """What two pictures alone say of the motion between them."""

    first: str
    second: str
    """Names of the frames."""
    second_from_first: Array
    """(3, 3) rotation."""
    direction: Array | None
    """(3,) unit vector to the first camera in the axes of the second; None when there is too little parallax."""


Columns = dict[str, list[float]]
"""Errors in degrees by hypothesis, one a pair."""


def evidence_of_points(scene: Scene, random: np.random.Generator) -> Evidence | None:
    """Judge the hypotheses by cheirality and reprojection of the scene's tracks; None when it has none.

    An observation is explained when its point lies in front of the camera and falls within 2 % of the image's width
    of where it was seen: loose, for a wrong convention misses by half the image.
    """
    points = scene.points
    if points is None or not len(points.seen_point):
        return None
    posed = np.array([frame.world_from_cam is not None for frame in scene.frames])
    usable = np.flatnonzero(posed[points.seen_frame] & np.isfinite(points.points_world[points.seen_point]).all(axis=1))
    if len(usable) < _MATCHES_NEEDED:
        return None
    chosen = random.choice(usable, min(len(usable), _OBSERVATIONS), replace=False)
    frames = points.seen_frame[chosen]
    explained = dict.fromkeys(HYPOTHESES, 0)
    for index in np.unique(frames):
        mine = chosen[frames == index]
        frame = scene.frames[index]
        seen_world, seen_px = points.points_world[points.seen_point[mine]], points.seen_px[mine]
        for name, world_from_cam in _readings(frame).items():
            explained[name] += _explained(seen_world, seen_px, world_from_cam, scene.camera_of(frame))
    scores = {name: count / len(chosen) for name, count in explained.items()}
    best = max(scores, key=lambda name: scores[name])
    verdict = None
    if scores[STORED] >= 0.5 and scores[STORED] >= 0.9 * scores[best]:
        verdict = STORED
    elif scores[best] >= 0.5 and scores[STORED] < 0.7 * scores[best]:
        verdict = best
    text = f"{100 * scores[STORED]:.0f} % of {len(chosen)} observations of points agree with the poses as stored"
    if verdict not in (None, STORED):
        text += f", {100 * scores[best]:.0f} % when read as: {best}"
    return Evidence("points", len(chosen), scores, verdict, text)


def _readings(frame: Frame) -> dict[str, Pose]:
    stored = frame.world_from_cam
    return {} if stored is None else {name: reading(stored) for name, reading in HYPOTHESES.items()}


def _explained(points_world: Array, seen_px: NDArray[np.float32], world_from_cam: Pose, camera: Camera) -> int:
    pixels = camera.project(world_from_cam.inv.apply(points_world))
    return int((np.linalg.norm(pixels - seen_px, axis=1) < 0.02 * camera.width).sum())


def turns_in_pictures(scene: Scene, random: np.random.Generator, log: Log) -> list[Turn]:
    """Measure up to 16 pairs of neighbouring pictures that turn against each other, from the pictures alone.

    The angle of a relative rotation is the same under inversion, a change of axes and a permutation of the quaternion
    (a permutation keeps dot products), so the pairs can be chosen by the stored poses whatever convention those are
    in; the axis is what differs.
    """
    turns = []
    for first, second in log.track(_turning_pairs(scene, random), "comparing neighbouring pictures"):
        turn = relative_motion(scene, first, second)
        if turn is not None:
            turns.append(turn)
    return turns


def evidence_of_pictures(scene: Scene, turns: Sequence[Turn]) -> Evidence:
    """Judge the hypotheses by the rotations between pictures; where those tie, by the direction of the motion."""
    if len(turns) < _PAIRS_NEEDED:
        text = f"undecided: only {len(turns)} pairs of neighbouring pictures turn enough and match"
        return Evidence("pictures", len(turns), {}, None, text)
    frames = {frame.name: frame for frame in scene.posed}
    rotations: Columns = {name: [] for name in HYPOTHESES}
    directions: Columns = {name: [] for name in HYPOTHESES}
    for turn in turns:
        ones, others = _readings(frames[turn.first]), _readings(frames[turn.second])
        for name in HYPOTHESES:
            second_from_first = others[name].inv @ ones[name]
            rotations[name].append(rotation_angle_deg(turn.second_from_first.T @ second_from_first.rotation))
            if turn.direction is not None:
                directions[name].append(_direction_error(turn.direction, second_from_first.translation))
    moved_deg = float(np.median([rotation_angle_deg(turn.second_from_first) for turn in turns]))
    verdict = _verdict(rotations, directions, moved_deg)
    scores = _medians(rotations)
    return Evidence("pictures", len(turns), scores, verdict, _account(scores, verdict, len(turns)))


def _verdict(rotations: Columns, directions: Columns, moved_deg: float) -> str | None:
    """The hypothesis whose rotations fit well and clearly better than the others'; directions part those that tie."""
    scores = _medians(rotations)
    best = min(scores, key=lambda name: scores[name])
    if scores[best] > max(1.5, 0.3 * moved_deg):
        return None
    tied = _not_clearly_worse(rotations, best, margin_deg=max(1.0, 0.1 * moved_deg))
    if len(tied) > 1 and len(directions[best]) >= _PAIRS_NEEDED:
        among = {name: directions[name] for name in tied}
        off = _medians(among)
        best = min(tied, key=lambda name: off[name])
        tied = _not_clearly_worse(among, best, margin_deg=max(5.0, off[best]))
    if STORED in tied:
        return STORED
    return best if len(tied) == 1 else None


def _not_clearly_worse(errors: Columns, best: str, margin_deg: float) -> list[str]:
    """Those that are not worse than the best by a margin in the median and in three pairs of four."""
    kept = []
    for name, values in errors.items():
        worse = np.mean(np.array(values) > np.array(errors[best])) >= 0.75
        if not (worse and np.median(values) > np.median(errors[best]) + margin_deg):
            kept.append(name)
    return kept


def _medians(errors: Columns) -> dict[str, float]:
    return {name: float(np.median(values)) for name, values in errors.items()}


def _account(scores: Mapping[str, float], verdict: str | None, count: int) -> str:
    text = f"{count} pairs of neighbouring pictures turn {scores[STORED]:.1f} deg off the poses as stored (median)"
    if verdict is None:
        best = min(scores, key=lambda name: scores[name])
        return f"undecided: {text}, best is {best!r} with {scores[best]:.1f} deg"
    return text if verdict == STORED else f"{text}, {scores[verdict]:.1f} deg when read as: {verdict}"


def _turning_pairs(scene: Scene, random: np.random.Generator) -> list[tuple[Frame, Frame]]:
    """Pairs of frames of one sequence, spread over the scene, that turn by 6 to 30 degrees as stored."""
    pairs = []
    for group in sequences(scene.posed).values():
        for start in range(len(group)):
            partner = _turning_partner(group, start)
            if partner is not None:
                pairs.append((group[start], partner))
    chosen = random.permutation(len(pairs))[:_PAIRS]
    return [pairs[i] for i in sorted(chosen)]


def _turning_partner(group: Sequence[Frame], start: int) -> Frame | None:
    for gap in (1, 2, 3, 5, 8, 13, 21):
        if start + gap >= len(group):
            return None
        first, second = group[start].world_from_cam, group[start + gap].world_from_cam
        if first is None or second is None:
            return None
        angle = rotation_angle_deg(second.rotation.T @ first.rotation)
        if 6.0 <= angle <= 30.0:
            return group[start + gap]
        if angle > 30.0:
            return None
    return None


def relative_motion(scene: Scene, first: Frame, second: Frame) -> Turn | None:
    """The motion between two pictures from SIFT matches and the essential matrix; None when they do not match."""
    try:
        features = [_features(scene, frame) for frame in (first, second)]
    except ImageError:
        return None
    (pixels_1, descriptors_1, camera_1), (pixels_2, descriptors_2, camera_2) = features
    matches = match(as_unit(descriptors_1), as_unit(descriptors_2), ratio=0.8)
    rays_1, rays_2 = camera_1.rays(pixels_1[matches.first]), camera_2.rays(pixels_2[matches.second])
    usable = np.isfinite(rays_1).all(axis=1) & np.isfinite(rays_2).all(axis=1)
    if usable.sum() < _MATCHES_NEEDED:
        return None
    rays_1, rays_2 = rays_1[usable], rays_2[usable]
    unit = {"model": "SIMPLE_PINHOLE", "width": 2, "height": 2, "params": [camera_1.fx, 0.0, 0.0]}
    options = {"max_epipolar_error": 1.5, "seed": 0, "max_iterations": 2000, "min_iterations": 100}
    found, report = poselib.estimate_relative_pose(
        rays_1[:, :2] * camera_1.fx, rays_2[:, :2] * camera_1.fx, unit, unit, options, {}
    )
    inliers = np.asarray(report["inliers"], dtype=bool)
    if inliers.sum() < _MATCHES_NEEDED:
        return None
    rotation = Pose.nearest(found.Rt).rotation
    parallax_deg = np.median(_angles_between_deg(rays_1[inliers] @ rotation.T, rays_2[inliers]))
    translation = np.asarray(found.t, dtype=np.float64)
    known = parallax_deg > 1.0 and np.linalg.norm(translation) > 0
    return Turn(first.name, second.name, rotation, translation / np.linalg.norm(translation) if known else None)


def _features(scene: Scene, frame: Frame) -> tuple[Array, NDArray[np.uint8], Camera]:
    query = load_query(scene, frame)
    image, camera = resize_image(query.image, query.camera, max_side_px=_LONG_SIDE_PX)
    features = Sift(count=1000).detect(image)
    return features.pixels.astype(np.float64), features.descriptors, camera


def _direction_error(direction: Array, translation: Array) -> float:
    length = np.linalg.norm(translation)
    return 90.0 if length == 0 else float(_angles_between_deg(direction, translation / length))


def _angles_between_deg(one: Array, other: Array) -> Array:
    sine = np.linalg.norm(np.cross(one, other), axis=-1)
    angles: Array = np.degrees(np.arctan2(sine, np.sum(one * other, axis=-1)))
    return angles
