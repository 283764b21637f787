"""3D-3D matches to a rigid motion and its covariance: what `pnp` is for pictures, for pictures with depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from placecell.pose import Array, Pose, closest_rotation, skew

Mask = NDArray[np.bool_]

_TRIALS = 256
_MOST_TRIALS = 64 * _TRIALS
_SCORED = 1000
_CONFIDENCE = 0.9999
_LEAST_VARIANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Rigid:
    """What `solve_rigid` found."""

    world_from_cam: Pose | None
    """None when no three points agree."""
    inliers: Mask
    """(N,)."""
    covariance: Array | None
    """(6, 6), right perturbation of `world_from_cam` in camera axes; None without a pose."""
    sigma: float
    """Robust standard deviation of the inliers' residuals, an axis, in the unit of the points."""

    @property
    def count(self) -> int:
        """How many points agree."""
        return int(self.inliers.sum())


def kabsch(
    points_world: NDArray[np.floating], points_cam: NDArray[np.floating], weight: NDArray[np.floating] | None = None
) -> tuple[Array, Array]:
    """Rotations (..., 3, 3) and translations (..., 3) of `world_from_cam` minimising Σ w |x_world - R x_cam - t|².

    Kabsch 1976: with the weighted means taken off, R is the rotation closest to Σ w x_world x_camᵀ; never a reflection.
    What the points leave open (the turn about a line of points, everything when no weight is positive) is chosen
    arbitrarily.

    Args:
        points_world: (..., N, 3).
        points_cam: (..., N, 3), the same points in camera axes.
        weight: (..., N), not negative; None for all alike.
    """
    world, cam = np.asarray(points_world, np.float64), np.asarray(points_cam, np.float64)
    share = np.ones(world.shape[:-1]) if weight is None else np.asarray(weight, np.float64)
    share = share / np.maximum(share.sum(axis=-1, keepdims=True), 1e-300)
    mean_world, mean_cam = share[..., None, :] @ world, share[..., None, :] @ cam
    weighted = share[..., None] * (world - mean_world)
    rotation = closest_rotation(np.swapaxes(weighted, -1, -2) @ (cam - mean_cam))
    translation = mean_world - mean_cam @ np.swapaxes(rotation, -1, -2)
    return rotation, translation[..., 0, :]


def solve_rigid(
    points_world: NDArray[np.floating],
    points_cam: NDArray[np.floating],
    *,
    max_error: float,
    noise: float | NDArray[np.floating],
    seed: int = 0,
) -> Rigid:
    """Camera pose from 3D-3D matches: RANSAC over triples of points, then `refine_rigid` on its inliers.

    A triple makes a hypothesis if its triangle has the same sides in both frames; the hypothesis with the least
    Σ min(|r|², max_error²) wins (MSAC, Torr and Zisserman 2000).

    Args:
        points_world: (N, 3) in the world frame.
        points_cam: (N, 3) the same points in camera axes.
        max_error: a match agrees when its points are closer than this, in the unit of the points.
        noise: as `refine_rigid`.

    Raises:
        ValueError: shapes disagree, or a coordinate is not finite.
    """
    world, cam, sigma = _checked(points_world, points_cam, noise)
    first = _consensus(world, cam, max_error, np.random.default_rng(seed))
    if first is None:
        return _none(np.zeros(len(world), dtype=bool))
    return refine_rigid(world, cam, first, max_error=max_error, noise=sigma)


def refine_rigid(
    points_world: NDArray[np.floating],
    points_cam: NDArray[np.floating],
    world_from_cam: Pose,
    *,
    max_error: float,
    noise: float | NDArray[np.floating],
) -> Rigid:
    """Robust least squares around a first pose over the matches that agree with it, and the covariance of the answer.

    Minimises Σ ρ(|x_world - R x_cam - t|² / σ_i²), ρ(s) = log(1 + s) (Cauchy), over the inliers, which are decided anew
    after each solution.

    Args:
        max_error: how far off a match may be to take part, in the unit of the points.
        noise: σ, standard deviation of a match an axis, in the unit of the points: one number, or (N,).
    """
    world, cam, sigma = _checked(points_world, points_cam, noise)
    inliers = _squares(world, cam, world_from_cam) < max_error**2
    for _ in range(10):
        if inliers.sum() < 3:
            return _none(inliers)
        world_from_cam = _least_squares(world[inliers], cam[inliers], world_from_cam, sigma[inliers])
        before, inliers = inliers, _squares(world, cam, world_from_cam) < max_error**2
        if (inliers == before).all():
            break
    if inliers.sum() < 3:
        return _none(inliers)
    covariance = rigid_covariance(world[inliers], cam[inliers], world_from_cam, sigma[inliers])
    residuals = world[inliers] - world_from_cam.apply(cam[inliers])
    return Rigid(world_from_cam, inliers, covariance, float(1.4826 * np.median(np.abs(residuals))))


def rigid_covariance(points_world: Array, points_cam: Array, world_from_cam: Pose, noise: ArrayLike) -> Array:
    """(6, 6) covariance of a refined pose: right perturbation of `world_from_cam`, (rx ry rz tx ty tz).

    As `pnp.pose_covariance`, for residuals of three axes: Σ = K² [Σ |ψ|² / (3 N - 6)] / m² (Σ J_iᵀ J_i / σ_i²)⁻¹ with
    J = ([x]×, -I) of the point x in camera axes, Cauchy's ψ = r / (1 + s) of the residuals r in units of σ, s = |r|²,
    m and v the mean and variance of its slope (1 + s / 3) / (1 + s)², and K = 1 + 3 v / (N m²). It takes the matches
    for independent. A direction that they leave open comes out huge.
    """
    sigma = np.broadcast_to(np.asarray(noise, np.float64), len(points_world))
    squares = _squares(points_world, points_cam, world_from_cam) / sigma**2
    influence = float((squares / (1.0 + squares) ** 2).sum()) / max(3 * len(squares) - 6, 1)
    slopes = (1.0 + squares / 3.0) / (1.0 + squares) ** 2
    slope = float(slopes.mean())
    slope /= 1.0 + 3.0 * float(slopes.var()) / (len(slopes) * slope**2)
    information = _information(points_cam, 1.0 / sigma**2)
    # Scaled to a unit diagonal, so that neither the unit of the scene nor that of angles decides what is singular.
    scale = 1.0 / np.sqrt(np.maximum(np.diag(information), 1e-300))
    values, vectors = np.linalg.eigh(information * np.outer(scale, scale))
    inverse = (vectors / np.maximum(values, 1e-12)) @ vectors.T
    covariance: Array = max(influence, _LEAST_VARIANCE) / slope**2 * inverse * np.outer(scale, scale)
    return (covariance + covariance.T) / 2


def squared_distances(
    rotation: NDArray[np.floating],
    translation: NDArray[np.floating],
    points_world: NDArray[np.floating],
    points_cam: NDArray[np.floating],
) -> NDArray[np.floating]:
    """(H, N) of |x_world - R x_cam - t|² for H poses, as one matrix product, in the precision of `points_world`.

    It is linear in (R, t, Rᵀ t, |t|²). Differences of squares lose half the digits, so keep the origins near.
    """
    pose = np.empty((len(rotation), 17), dtype=points_world.dtype)
    pose[:, :9] = rotation.reshape(-1, 9)
    pose[:, 9:12] = translation
    pose[:, 12:15] = (translation[:, None, :] @ rotation)[:, 0]
    pose[:, 15] = (translation**2).sum(axis=-1)
    pose[:, 16] = 1.0
    point = np.empty((17, len(points_world)), dtype=points_world.dtype)
    point[:9] = -2.0 * (points_world[:, :, None] * points_cam[:, None, :]).reshape(-1, 9).T
    point[9:12] = -2.0 * points_world.T
    point[12:15] = 2.0 * points_cam.T
    point[15] = 1.0
    point[16] = (points_world**2).sum(axis=-1) + (points_cam**2).sum(axis=-1)
    return pose @ point


def same_triangles(
    points_world: NDArray[np.floating],
    points_cam: NDArray[np.floating],
    triples: NDArray[np.intp],
    *,
    max_error: float,
    height: float = 0.0,
) -> NDArray[np.intp]:
    """Those of the triples (T, 3) of points whose triangles have the same sides in both frames.

    Each side may differ by 2 `max_error`, as both its ends may be off by one. Triangles flatter than `height` over
    their longest side in camera axes are left out, for they hardly fix the turn about it.
    """
    lengths = np.zeros((len(triples), 0))
    for one, other in ((0, 1), (1, 2), (2, 0)):  # one after the other, as most fall at the first
        ends = triples[:, one], triples[:, other]
        in_cam, in_world = (_length(points[ends[0]] - points[ends[1]]) for points in (points_cam, points_world))
        same = np.abs(in_world - in_cam) < 2 * max_error
        triples, lengths = triples[same], np.column_stack([lengths, in_cam])[same]
    first, second, third = points_cam[triples.T]
    twice_area, longest = _length(np.cross(second - first, third - first)), lengths.max(axis=1, initial=0.0)
    kept: NDArray[np.intp] = triples[(twice_area > 1e-6 * longest**2) & (twice_area >= height * longest)]
    return kept


def _length(vectors: Array) -> Array:
    length: Array = np.sqrt(np.einsum("ni,ni->n", vectors, vectors))
    return length


def _consensus(world: Array, cam: Array, max_error: float, random: np.random.Generator) -> Pose | None:
    if len(world) < 3:
        return None
    shown = random.permutation(len(world))[:_SCORED]
    # The expansion of squares wants origins amid the points.
    centre_world, centre_cam = np.median(world, axis=0), np.median(cam, axis=0)
    world, cam = world - centre_world, cam - centre_cam
    least, best, share, tried = np.inf, None, 0.0, 0
    while tried < min(_MOST_TRIALS, _trials_for(share)):
        tried += _TRIALS
        triples: NDArray[np.intp] = random.integers(0, len(world), (_TRIALS, 3))
        triples = same_triangles(world, cam, triples, max_error=max_error)
        if len(triples) == 0:
            continue
        rotation, translation = kabsch(world[triples], cam[triples])
        squares = squared_distances(rotation, translation, world[shown], cam[shown])
        costs = np.minimum(squares, max_error**2).sum(axis=1)
        winner = int(costs.argmin())
        if costs[winner] < least:
            least, share = float(costs[winner]), float((squares[winner] < max_error**2).mean())
            best = Pose(rotation[winner], translation[winner])
    if best is None:
        return None
    return Pose(best.rotation, best.translation + centre_world - best.rotation @ centre_cam)


def _trials_for(share: float) -> float:
    """How many random triples hold one of inliers alone with `_CONFIDENCE`."""
    if share >= 1.0:
        return 1.0
    return float(np.log(1.0 - _CONFIDENCE) / np.log1p(-(max(share, 1e-4) ** 3)))


def _least_squares(world: Array, cam: Array, world_from_cam: Pose, sigma: Array) -> Pose:
    """Kabsch with Cauchy's weights, again and again: each turn lowers the cost, so that no damping is needed."""
    cost = np.inf
    for _ in range(50):
        squares = _squares(world, cam, world_from_cam) / sigma**2
        before, cost = cost, float(np.log1p(squares).sum())
        if before - cost < 1e-9 * (1.0 + cost):
            break
        world_from_cam = Pose(*kabsch(world, cam, 1.0 / (sigma**2 * (1.0 + squares))))
    return world_from_cam


def _squares(world: Array, cam: Array, world_from_cam: Pose) -> Array:
    squares: Array = ((world - world_from_cam.apply(cam)) ** 2).sum(axis=-1)
    return squares


def _information(points_cam: Array, weight: Array) -> Array:
    """Σ w JᵀJ with J = ([x]×, -I): the derivative of exp(-ξ) x."""
    moment = (weight[:, None] * points_cam).sum(axis=0)
    second = np.einsum("n,ni,nj->ij", weight, points_cam, points_cam)
    information = np.empty((6, 6))
    information[:3, :3] = np.trace(second) * np.eye(3) - second
    information[:3, 3:], information[3:, :3] = skew(moment), skew(moment).T
    information[3:, 3:] = weight.sum() * np.eye(3)
    return information


def _none(inliers: Mask) -> Rigid:
    return Rigid(None, inliers, None, float("nan"))


def _checked(
    points_world: NDArray[np.floating], points_cam: NDArray[np.floating], noise: float | NDArray[np.floating]
) -> tuple[Array, Array, Array]:
    world, cam = np.asarray(points_world, np.float64), np.asarray(points_cam, np.float64)
    if world.shape != (len(cam), 3) or cam.shape != (len(world), 3):
        raise ValueError(f"matches are (N, 3) and (N, 3), not {world.shape} and {cam.shape}")
    sigma = np.asarray(noise, np.float64)
    if sigma.shape not in ((), (len(world),)):
        raise ValueError(f"noise is one number or (N,), not {sigma.shape}")
    if not (np.isfinite(world).all() and np.isfinite(cam).all()):
        raise ValueError("a match is not finite")
    if not (np.isfinite(sigma).all() and (sigma > 0).all()):
        raise ValueError("noise has to be positive and finite")
    return world, cam, np.broadcast_to(sigma, len(world))
