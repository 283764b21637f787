"""What the numbers of a network mean, in NumPy: for maps that run without torch. Imports none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from placecell.families.regression.config import RotationOutput
from placecell.pose import Array, Pose, closest_rotation

LEAST_WEIGHT = 1e-3
MOST_LOG_DEPTH = 3.0
MOST_LOG = 12.0
"""Of the diagonal of a whitening: nothing is known better than to e⁻¹² of a radian, or worse than to e¹²."""
ROWS, COLUMNS = np.tril_indices(6, -1)
"""Where the numbers below the diagonal of a whitening stand."""
_DOUBT = "covariance."


class Fixed(NamedTuple):
    """What training leaves as it is in an align head; see `alignment.Alignment`."""

    rays: NDArray[np.float32]
    """(N, 3) through the middles of the cells, z = 1."""
    depth: float
    """Of a typical surface, in the unit of the scene."""
    middle: NDArray[np.float32]
    """(3,) of the place, in the anchor frame."""


class Laid(NamedTuple):
    """What the cells of a picture say together."""

    pose: Pose
    """`anchor_from_cam`."""
    misfit: Array
    """(2,) logs of how badly the alignment fits, and of how many cells it rests on; see `alignment.Alignment`."""


def aligned(numbers_N5: NDArray[np.float32], fixed: Fixed) -> Laid:
    """The five numbers that an align head says of each cell to a pose: weighted Procrustes (Kabsch 1976).

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
    pose = Pose(rotation, onto_mean - rotation @ away_mean)
    mean_square = float((weight * (pose.apply(away) - onto) ** 2).sum()) / fixed.depth**2
    return Laid(pose, np.array([np.log(mean_square + 1e-8) / 2, -np.log((weight**2).sum())]))


class Doubt(NamedTuple):
    """The weights of a covariance head; see `covariance.CovarianceHead`."""

    first: tuple[Array, Array]
    """(64, D + 1) and (64,)."""
    last: tuple[Array, Array]
    """(21, 64) and (21,)."""
    unit: Array
    """(6,)."""

    @classmethod
    def of(cls, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """Of the tensors of an exported map; see `kept`."""
        names = ("first.weight", "first.bias", "last.weight", "last.bias", "unit")
        first, first_bias, last, last_bias, unit = (tensors[_DOUBT + name].astype(np.float64) for name in names)
        return cls((first, first_bias), (last, last_bias), unit)

    @staticmethod
    def kept(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The tensors of a covariance head by the names that `of` knows them by."""
        return {_DOUBT + name: values for name, values in tensors.items()}


def expected(features_BD: Array, doubt: Doubt) -> Array:
    """(B, 6, 6) covariances that a network expects its errors to have, of what it makes poses of.

    `covariance.CovarianceHead` in float64. It stays outside of exported networks, as for an align head it wants to know
    how well the alignment fits, which is not known inside; and eight bits never touch it.
    """
    length = np.sqrt(np.square(features_BD).mean(-1, keepdims=True) + 1e-12)
    told = np.concatenate([features_BD / length, np.log(length)], axis=-1)
    (first, first_bias), (last, last_bias), unit = doubt
    numbers = np.maximum(told @ first.T + first_bias, 0.0) @ last.T + last_bias
    whitening = np.zeros((len(numbers), 6, 6))
    whitening[:, range(6), range(6)] = np.exp(numbers[:, :6].clip(-MOST_LOG, MOST_LOG))
    whitening[:, ROWS, COLUMNS] = numbers[:, 6:]
    return covariances(whitening / unit)


def covariances(whitening_B66: Array) -> Array:
    """(B, 6, 6) Σ = A⁻¹ A⁻ᵀ."""
    inverse = np.linalg.inv(whitening_B66)
    found: Array = inverse @ inverse.transpose(0, 2, 1)
    return found


def posed(centre: NDArray[np.float32], raw: NDArray[np.float32], rotation: RotationOutput, scale: float) -> Pose:
    """`anchor_from_cam` of a centre in units of the map's scale and the numbers of a rotation.

    Raises:
        ValueError: a number is none, or the numbers are no rotation.
    """
    numbers, where = raw.astype(np.float64), scale * centre.astype(np.float64)
    if rotation == "quaternion":
        return Pose.from_quat_wxyz(numbers, where)
    return Pose(_rotation(numbers, rotation), where)


def _rotation(raw: Array, kind: RotationOutput) -> Array:
    """See `heads.ROTATIONS`; numbers from float32 are made exact."""
    if kind == "log-quaternion":
        return np.asarray(Rotation.from_rotvec(2.0 * raw).as_matrix(), np.float64)
    if kind == "9d":
        return closest_rotation(raw.reshape(3, 3))
    first = raw[:3] / np.linalg.norm(raw[:3])
    second = raw[3:] - (first @ raw[3:]) * first
    second /= np.linalg.norm(second)
    return np.column_stack([first, second, np.cross(first, second)])
