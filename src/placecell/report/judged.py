"""The frames that were asked, each with its truth, its answer and its error: what every part of the report draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from placecell.errors import SceneError
from placecell.estimate import Estimate
from placecell.metrics import Evaluation
from placecell.pose import Array, Pose, PoseError
from placecell.scene import Frame, Scene


@dataclass(frozen=True)
class Judged:
    """A frame that was asked, and what came of it."""

    frame: Frame
    truth: Pose
    """Its `world_from_cam`."""
    estimate: Estimate
    """A refusal when the predictions do not hold the frame."""
    error: PoseError

    @property
    def answer(self) -> Pose | None:
        """The answered `world_from_cam`."""
        return self.estimate.world_from_cam


def judge(scene: Scene, estimates: Sequence[Estimate], evaluation: Evaluation) -> list[Judged]:
    """The frames of the evaluation in the order of the scene.

    Raises:
        SceneError: the evaluation or an answer belongs to another scene or ground truth.
    """
    if (evaluation.scene, evaluation.labels) != (scene.name, scene.labels):
        raise SceneError(
            f"the evaluation is of {evaluation.scene!r} against {evaluation.labels!r}, the scene is {scene.name!r} "
            f"with {scene.labels!r}; evaluate on this scene"
        )
    answers = {estimate.name: estimate for estimate in estimates}
    posed = {frame.name: frame for frame in scene.posed}
    strangers = [name for name in (*evaluation.errors, *answers) if name not in posed]
    if strangers:
        raise SceneError(f"{strangers[0]} is no labelled frame of scene {scene.name}; evaluate on this scene")
    return [
        Judged(
            frame,
            frame.world_from_cam,
            answers.get(name, Estimate.refusal(name, "not in the predictions")),
            evaluation.errors[name],
        )
        for name, frame in posed.items()
        if name in evaluation.errors and frame.world_from_cam is not None
    ]


def refusals(judged: Sequence[Judged]) -> list[tuple[str, list[str]]]:
    """Reasons and the frames refused for each, most frequent first."""
    refused = [(item.estimate.reason or "", item.frame.name) for item in judged if item.answer is None]
    counts = Counter(reason for reason, _ in refused)
    return [(reason, [name for why, name in refused if why == reason]) for reason, _ in counts.most_common()]


def worst(judged: Sequence[Judged], count: int = 12) -> list[Judged]:
    """The answered frames with the largest errors, by distance or angle, each in multiples of its median."""
    answered = [item for item in judged if item.answer is not None]
    errors = np.array([item.error for item in answered]).reshape(-1, 2)
    middle = np.maximum(np.median(errors, axis=0), 1e-12) if len(errors) else 1.0
    badness = (errors / middle).max(axis=1)
    return [answered[index] for index in np.argsort(-badness, kind="stable")[:count]]


def nearest_training_frame(scene: Scene, truth: Pose, exclude: str) -> Frame | None:
    """The training frame seen from closest to `truth`; a degree weighs as much as 10 cm, or 1 % of the extent."""
    frames = [frame for frame in scene.posed if frame.split == "train" and frame.name != exclude]
    if not frames:
        return None
    poses = [frame.world_from_cam for frame in frames if frame.world_from_cam is not None]
    centres = np.array([pose.translation for pose in poses])
    rotations = np.array([pose.rotation for pose in poses])
    per_degree = 0.1 if scene.metric else float(np.linalg.norm(np.ptp(centres, axis=0))) / 100.0
    chord = np.linalg.norm(rotations - truth.rotation, axis=(1, 2)) / (2.0 * np.sqrt(2.0))
    angle_deg = np.degrees(2.0 * np.arcsin(np.minimum(chord, 1.0)))
    cost = np.linalg.norm(centres - truth.translation, axis=1) + per_degree * angle_deg
    return frames[int(np.argmin(cost))]


def up_world(poses: Sequence[Pose]) -> Array:
    """(3,) the direction that is up for most cameras; where they disagree, that in which their centres spread least."""
    mean = -np.mean([pose.rotation[:, 1] for pose in poses], axis=0)
    length = float(np.linalg.norm(mean))
    if length > 0.3:
        return np.asarray(mean / length, dtype=np.float64)
    centres = np.array([pose.translation for pose in poses])
    _, _, axes = np.linalg.svd(centres - centres.mean(axis=0), full_matrices=True)
    return np.asarray(axes[2], dtype=np.float64)


def ground_axes(poses: Sequence[Pose]) -> Array:
    """(3, 3) rows east, north, up of a right-handed frame in which the camera centres spread most along east."""
    up = up_world(poses)
    centres = np.array([pose.translation for pose in poses])
    flat = centres - centres.mean(axis=0)
    flat = flat - np.outer(flat @ up, up)
    _, _, axes = np.linalg.svd(np.vstack([flat, np.eye(3) * 1e-9]), full_matrices=False)
    east = axes[0] - (axes[0] @ up) * up
    if np.linalg.norm(east) < 0.5:  # all centres on one vertical line
        east = np.cross(up, np.eye(3)[int(np.argmin(np.abs(up)))])
    east = east / np.linalg.norm(east)
    return np.array([east, np.cross(up, east), up])
