"""How far off the pose of several looks at a picture may be. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from placecell.pose import Array, Pose, mean_pose, scatter


class Spread(NamedTuple):
    """Where several looks at a picture put the camera, and how far off that may be; covariances (6, 6) of ξ."""

    mean: Pose
    expected: Array | None
    """Aleatoric: the mean of what the network expects; None where it has not learned to."""
    weights: Array
    """Epistemic: how far the passes of one window with other weights dropped lie from their mean."""
    windows: Array
    """How far the windows of the picture disagree."""

    @property
    def total(self) -> Array | None:
        """The sum, as the parts do not depend on each other (Kendall and Gal 2017, eq. 9); None where nothing tells."""
        total = self.weights + self.windows + (0.0 if self.expected is None else self.expected)
        return total if np.trace(total) > 0 else None


def spread(poses: Sequence[Sequence[Pose]], expected: Array | None) -> Spread | None:
    """What windows, and the passes of each, say together; None where rotations look opposite ways and have no mean.

    Args:
        poses: of each window, its passes.
        expected: (N, 6, 6) covariances that the network expects, of all passes of all windows.

    Every look is at a picture of one camera, so all answer with the same pose. The papers average quaternions number by
    number; the chordal mean is what that means where signs and lengths may differ.

    The paper of Bayesian PoseNet takes 40 passes of which each sees another random crop, so that what it reports mixes
    both kinds; here they are told apart.
    """
    try:
        each = [_together(passes) for passes in poses]
        mean, windows = _together([own for own, _ in each])
    except ValueError:
        return None
    weights = np.mean([scattered for _, scattered in each], axis=0)
    return Spread(mean, None if expected is None else expected.mean(axis=0), weights, windows)


def _together(poses: Sequence[Pose]) -> tuple[Pose, Array]:
    """The mean of poses and their covariance about it; exactly the pose and nothing where there is one."""
    if len(poses) == 1:
        return poses[0], np.zeros((6, 6))
    mean = mean_pose(poses)
    return mean, scatter(poses, mean)
