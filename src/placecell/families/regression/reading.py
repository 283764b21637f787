"""What the numbers of a network mean, in NumPy: for maps that run without torch. Imports none."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from placecell.families.regression.config import RotationOutput
from placecell.pose import Array, Pose, closest_rotation

LEAST_WEIGHT = 1e-3
MOST_LOG_DEPTH = 3.0


class Fixed(NamedTuple):
    """What training leaves as it is in an align head; see `alignment.Alignment`."""

    rays: NDArray[np.float32]
    """(N, 3) through the middles of the cells, z = 1."""
    depth: float
    """Of a typical surface, in the unit of the scene."""
    middle: NDArray[np.float32]
    """(3,) of the place, in the anchor frame."""


def aligned(numbers_N5: NDArray[np.float32], fixed: Fixed) -> Pose:
    """`anchor_from_cam` of the five numbers that an align head says of each cell: weighted Procrustes (Kabsch 1976).

    Raises:
        ValueError: a number is none, or the matrix is not of rank two.
    """
    numbers = numbers_N5.astype(np.float64)
    weight = 1.0 / (1.0 + np.exp(-numbers[:, 4:])) + LEAST_WEIGHT
    weight /= weight.sum()
    depth = fixed.depth * np.exp(numbers[:, 3:4].clip(-MOST_LOG_DEPTH, MOST_LOG_DEPTH))
    onto, away = fixed.middle + fixed.depth * numbers[:, :3], fixed.rays * depth
    onto_mean, away_mean = (weight * onto).sum(axis=0), (weight * away).sum(axis=0)
    rotation = closest_rotation((weight * (onto - onto_mean)).T @ (away - away_mean))
    return Pose(rotation, onto_mean - rotation @ away_mean)


def posed(centre: NDArray[np.float32], raw: NDArray[np.float32], rotation: RotationOutput, scale: float) -> Pose:
    """`anchor_from_cam` of a centre in units of the map's scale and the numbers of a rotation.

    Raises:
        ValueError: a number is none, or the numbers are no rotation.
    """
    return Pose(_rotation(raw.astype(np.float64), rotation), scale * centre.astype(np.float64))


def _rotation(raw: Array, kind: RotationOutput) -> Array:
    """See `heads.ROTATIONS`; numbers from float32 are made exact."""
    if kind == "quaternion":
        return Pose.from_quat_wxyz(raw, np.zeros(3)).rotation
    if kind == "log-quaternion":
        return np.asarray(Rotation.from_rotvec(2.0 * raw).as_matrix(), np.float64)
    if kind == "9d":
        return closest_rotation(raw.reshape(3, 3))
    first = raw[:3] / np.linalg.norm(raw[:3])
    second = raw[3:] - (first @ raw[3:]) * first
    second /= np.linalg.norm(second)
    return np.column_stack([first, second, np.cross(first, second)])
