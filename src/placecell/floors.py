"""What any method has to beat: answering always the same pose, and the best training pose there is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from placecell.errors import SceneError
from placecell.estimate import Estimate
from placecell.pose import Pose, mean_pose, pose_error
from placecell.scene import Frame, Scene, centres

METRES_PER_DEGREE = 0.1
"""How the oracle weighs an angle against a distance indoors; FIELD's published oracle rows use the same."""


def constant(scene: Scene, asked: Sequence[Frame]) -> list[Estimate]:
    """One pose for every frame: the median centre and the chordal mean rotation of the training frames.

    Raises:
        SceneError: the scene has no posed training frame.
    """
    train = _train(scene)
    poses = [frame.world_from_cam for frame in train if frame.world_from_cam is not None]
    try:
        middle = mean_pose(poses).rotation
    except ValueError:  # they look opposite ways, and any rotation is as good as another
        middle = poses[0].rotation
    pose = Pose(middle, np.median(centres(train), axis=0))
    return [Estimate(frame.name, pose) for frame in asked]


def oracle(scene: Scene, asked: Sequence[Frame], *, per_degree: float = METRES_PER_DEGREE) -> list[Estimate]:
    """The training pose nearest to the truth, distance + `per_degree` * angle: perfect retrieval. Needs labels.

    Frames without a true pose are left out.

    Raises:
        SceneError: the scene has no posed training frame.
    """
    train = _train(scene)
    poses = [frame.world_from_cam for frame in train if frame.world_from_cam is not None]
    answers = []
    for frame in asked:
        if frame.world_from_cam is None:
            continue
        errors = [pose_error(pose, frame.world_from_cam) for pose in poses]
        best = min(range(len(poses)), key=lambda i: errors[i].distance + per_degree * errors[i].angle_deg)
        answers.append(Estimate(frame.name, poses[best]))
    return answers


def _train(scene: Scene) -> tuple[Frame, ...]:
    train = scene.split("train").posed
    if not train:
        raise SceneError(f"scene {scene.name} has no posed training frames, so no floors can be drawn")
    return train
