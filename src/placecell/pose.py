"""Rigid motions in three dimensions, and how far apart two of them are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]

_ORTHONORMAL_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Pose:
    """A rigid motion `b_from_a` of SE(3): x_b = rotation @ x_a + translation. Immutable, float64.

    Compose by adjacency, `c_from_b @ b_from_a`; move points with `b_from_a.apply(points_a)`.
    For `world_from_cam`, `translation` is the camera centre in the world.
    Tangent vectors are (rx ry rz tx ty tz): radians, then the unit of the translation (docs/conventions.md).
    """

    rotation: Array
    """(3, 3), orthonormal, determinant +1."""
    translation: Array
    """(3,)."""

    def __post_init__(self) -> None:
        rotation = np.array(self.rotation, dtype=np.float64)
        translation = np.array(self.translation, dtype=np.float64).reshape(-1)
        if rotation.shape != (3, 3) or translation.shape != (3,):
            raise ValueError(f"a pose takes (3, 3) and (3,), not {rotation.shape} and {translation.shape}")
        # Half of what NumPy takes for nine numbers.
        x, y, z = rows = rotation.tolist()
        if not all(map(isfinite, (*x, *y, *z, *translation.tolist()))):
            raise ValueError("a pose has to be finite")
        drift = max(abs(_dot(a, b) - (a is b)) for a in rows for b in rows)
        if drift > _ORTHONORMAL_TOLERANCE or _dot(x, _cross(y, z)) < 0:
            raise ValueError(f"not a rotation: R Rᵀ is off by {drift:.1e}; Pose.nearest() projects a noisy matrix")
        rotation.setflags(write=False)
        translation.setflags(write=False)
        object.__setattr__(self, "rotation", rotation)
        object.__setattr__(self, "translation", translation)

    @classmethod
    def identity(cls) -> Self:
        """The motion that moves nothing."""
        return cls(np.eye(3), np.zeros(3))

    @classmethod
    def from_matrix(cls, matrix: ArrayLike) -> Self:
        """From a (3, 4) or (4, 4) matrix [R | t]."""
        values = np.asarray(matrix, dtype=np.float64)
        if values.shape not in ((3, 4), (4, 4)):
            raise ValueError(f"a pose matrix is (3, 4) or (4, 4), not {values.shape}")
        return cls(values[:3, :3], values[:3, 3])

    @classmethod
    def nearest(cls, matrix: ArrayLike) -> Self:
        """From a (3, 4) or (4, 4) matrix whose rotation carries rounding noise: the closest rotation (SVD).

        Raises:
            ValueError: it is not nearly a rotation: mirrored, scaled, or off by more than a tenth.
        """
        values = np.asarray(matrix, dtype=np.float64)
        if values.shape not in ((3, 4), (4, 4)) or not np.isfinite(values).all():
            raise ValueError(f"a pose matrix is (3, 4) or (4, 4) and finite, not {values.shape} {values.tolist()}")
        rotation = closest_rotation(values[:3, :3])
        if np.linalg.norm(rotation - values[:3, :3], ord=2) > 0.1:
            raise ValueError(f"not nearly a rotation: {values[:3, :3].tolist()}; is it scaled or mirrored?")
        return cls(rotation, values[:3, 3])

    @classmethod
    def from_quat_wxyz(cls, quat_wxyz: ArrayLike, translation: ArrayLike) -> Self:
        """From a quaternion, normalised here, and a translation.

        Raises:
            ValueError: the quaternion is zero or not finite.
        """
        quat = np.asarray(quat_wxyz, dtype=np.float64)
        with np.errstate(over="ignore"):
            norm = float(np.linalg.norm(quat))
        if quat.shape != (4,) or not np.isfinite(norm) or norm < 1e-12:
            raise ValueError(f"not a rotation quaternion: {quat.tolist()}")
        rotation = Rotation.from_quat(np.roll(quat / norm, -1)).as_matrix()
        return cls(rotation, np.asarray(translation, dtype=np.float64))

    @property
    def quat_wxyz(self) -> Array:
        """(4,) unit quaternion, w first and w >= 0."""
        quat = np.roll(Rotation.from_matrix(self.rotation).as_quat(), 1)
        return -quat if quat[0] < 0 else quat

    @property
    def matrix(self) -> Array:
        """(4, 4) homogeneous matrix."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.rotation
        matrix[:3, 3] = self.translation
        return matrix

    @property
    def inv(self) -> Pose:
        """`a_from_b` of this `b_from_a`."""
        return _trusted(self.rotation.T, -self.rotation.T @ self.translation)

    def __matmul__(self, other: Pose) -> Pose:
        return _trusted(self.rotation @ other.rotation, self.rotation @ other.translation + self.translation)

    def apply(self, points: ArrayLike) -> Array:
        """Move points (..., 3) from frame a to frame b."""
        return np.asarray(points, dtype=np.float64) @ self.rotation.T + self.translation

    @classmethod
    def exp(cls, tangent: ArrayLike) -> Self:
        """The motion of a twist (rx ry rz tx ty tz): R = exp([r]×), t = V(r) v (Sola 2018, eq. 172)."""
        vector = np.asarray(tangent, dtype=np.float64)
        rotvec = vector[:3]
        return cls(Rotation.from_rotvec(rotvec).as_matrix(), _left_jacobian(rotvec) @ vector[3:])

    def log(self) -> Array:
        """(6,) twist (rx ry rz tx ty tz) with `Pose.exp(pose.log())` equal to the pose; |r| <= pi."""
        rotvec = Rotation.from_matrix(self.rotation).as_rotvec()
        return np.concatenate([rotvec, np.linalg.solve(_left_jacobian(rotvec), self.translation)])

    def adjoint(self) -> Array:
        """(6, 6) matrix with `pose @ exp(xi) == exp(pose.adjoint() @ xi) @ pose`."""
        matrix = np.zeros((6, 6))
        matrix[:3, :3] = matrix[3:, 3:] = self.rotation
        matrix[3:, :3] = skew(self.translation) @ self.rotation
        return matrix

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pose):
            return NotImplemented
        return bool((self.rotation == other.rotation).all() and (self.translation == other.translation).all())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        quat, t = self.quat_wxyz, self.translation
        return f"Pose(quat_wxyz=[{', '.join(f'{v:.5g}' for v in quat)}], t=[{', '.join(f'{v:.5g}' for v in t)}])"

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (np.array(self.rotation), np.array(self.translation)))


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _trusted(rotation: Array, translation: Array) -> Pose:
    """A pose made of valid ones: their checks cost more than the arithmetic."""
    pose = object.__new__(Pose)
    for name, value in (("rotation", rotation), ("translation", translation)):
        value.setflags(write=False)
        object.__setattr__(pose, name, value)
    return pose


class PoseError(NamedTuple):
    """How far an answer is from the truth."""

    distance: float
    """Between the camera centres, in the unit of the scene."""
    angle_deg: float
    """Full angle of the relative rotation, 0 to 180."""


def pose_error(world_from_estimate: Pose | None, world_from_cam: Pose) -> PoseError:
    """Distance of the camera centres and angle between the rotations; (inf, 180) when there is no answer."""
    if world_from_estimate is None:
        return PoseError(float("inf"), 180.0)
    distance = float(np.linalg.norm(world_from_estimate.translation - world_from_cam.translation))
    return PoseError(distance, rotation_angle_deg(world_from_estimate.rotation.T @ world_from_cam.rotation))


def rotation_angle_deg(rotation: Array) -> float:
    """Full angle of a rotation matrix by atan2: exact near 0 and near 180, where acos is not."""
    sine = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    return float(np.degrees(np.arctan2(np.linalg.norm(sine), np.trace(rotation) - 1.0)))


def mean_pose(poses: Sequence[Pose], weights: ArrayLike | None = None) -> Pose:
    """Weighted mean of the translations with the chordal L2 mean of the rotations (Hartley et al. 2013, sec. 5.3).

    Raises:
        ValueError: no pose, or rotations so opposed that their mean is not defined.
    """
    if not poses:
        raise ValueError("the mean of no poses is not defined")
    weight = np.ones(len(poses)) if weights is None else np.asarray(weights, dtype=np.float64)
    weight = weight / weight.sum()
    total = np.einsum("n,nij->ij", weight, np.array([pose.rotation for pose in poses]))
    if np.linalg.svd(total, compute_uv=False)[1] < 1e-6:
        raise ValueError("the rotations are too far apart for a mean")
    translation = np.einsum("n,ni->i", weight, np.array([pose.translation for pose in poses]))
    return Pose(closest_rotation(total), translation)


def scatter(poses: Sequence[Pose], mean: Pose) -> Array:
    """(6, 6) mean of ξ ξᵀ with `pose = mean @ exp(ξ)`: the covariance of poses in the tangent space of their mean."""
    twists = np.array([(mean.inv @ pose).log() for pose in poses])
    found: Array = twists.T @ twists / len(twists)
    return found


def closest_rotation(matrix: ArrayLike) -> Array:
    """The rotations closest to matrices (..., 3, 3) in the Frobenius norm (Kabsch 1976): never reflections."""
    u, _, vt = np.linalg.svd(np.asarray(matrix, dtype=np.float64))
    u[..., 2] *= np.linalg.det(u @ vt)[..., None]
    rotation: Array = u @ vt
    return rotation


def skew(vector: ArrayLike) -> Array:
    """(3, 3) matrix with `skew(v) @ x == cross(v, x)`."""
    x, y, z = np.asarray(vector, dtype=np.float64)
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def _left_jacobian(rotvec: Array) -> Array:
    """V(r) of Sola 2018, eq. 174, with its series below 1e-4 rad, where the closed form cancels."""
    angle2 = float(rotvec @ rotvec)
    if angle2 < 1e-8:
        a, b = 0.5 - angle2 / 24.0, 1.0 / 6.0 - angle2 / 120.0
    else:
        angle = np.sqrt(angle2)
        a, b = (1.0 - np.cos(angle)) / angle2, (angle - np.sin(angle)) / (angle2 * angle)
    generator = skew(rotvec)
    jacobian: Array = np.eye(3) + a * generator + b * generator @ generator
    return jacobian
