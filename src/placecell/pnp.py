"""2D-3D matches to a pose and its covariance: the one place for RANSAC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import poselib
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.pose import Array, Pose, scatter
from placecell.spacing import even_places

Mask = NDArray[np.bool_]
Noise = float | NDArray[np.float64]
F = TypeVar("F", np.float32, np.float64)

NOISE_PX = 0.7
"""Standard deviation of a feature's place, a pixel axis: what SIFT's residuals against well-seen points show."""
_LEAST_VARIANCE = 1e-4
_GAINS = (1e-3, 1e-6)
"""Of the steps of refinement: the first solution chooses inliers anew, the second is the answer."""


@dataclass(frozen=True, eq=False)
class PnP:
    """What `solve_pnp` found."""

    world_from_cam: Pose | None
    """None when no four points agree."""
    inliers: Mask
    """(N,)."""
    covariance: Array | None
    """(6, 6), right perturbation of `world_from_cam` in camera axes; None without a pose."""
    sigma_px: float
    """Robust standard deviation of the inliers' residuals, a pixel axis."""

    @property
    def count(self) -> int:
        """How many matches agree."""
        return int(self.inliers.sum())


def solve_pnp(
    points_world: NDArray[np.floating],
    pixels: NDArray[np.floating],
    camera: Camera,
    *,
    max_error_px: float = 6.0,
    confidence: float = 0.9999,
    refine: bool = True,
    noise_px: Noise = NOISE_PX,
    sampled: int | None = None,
    runs: int = 1,
    seed: int = 0,
) -> PnP:
    """Camera pose from 2D-3D matches: LO-RANSAC with P3P (poselib), then `refine_pnp` on all that agree with it.

    Args:
        points_world: (N, 3) in the world frame.
        pixels: (N, 2) px of `camera`, distorted as the picture is.
        max_error_px: a match agrees when its reprojection error is below this.
        refine: without it the pose is RANSAC's own, and there is no covariance.
        noise_px: as in `refine_pnp`.
        sampled: RANSAC and the first solution see so many matches at most, spread evenly over them all.
        runs: RANSACs in all; more than one need `refine`. The others, of `poses_of_halves`, widen the covariance as in
            `scattered`, and change nothing else. Eight take four times as long as one.

    Raises:
        ValueError: shapes disagree, or a coordinate is not finite; there are runs without `refine`.
    """
    if runs < 1 or (runs > 1 and not refine):
        raise ValueError(f"runs count from 1, and more than one need refine; not {runs}")
    points, image = _checked(points_world, pixels)
    flat = camera.undistort(image)
    usable = np.flatnonzero(np.isfinite(flat).all(axis=1))
    ransac = _Ransac(max_error_px, confidence, sampled)
    first = ransac.pose(points[usable], flat[usable], camera, seed)
    if first is None:
        return PnP(None, np.zeros(len(image), dtype=bool), None, float("nan"))
    if refine:
        told: dict[str, Any] = {"max_error_px": max_error_px, "noise_px": noise_px, "sampled": sampled}
        found = refine_pnp(points, image, camera, first, **told)
        if runs == 1 or found.world_from_cam is None:
            return found
        others = poses_of_halves(points, image, camera, runs=runs - 1, confidence=confidence, seed=seed, **told)
        return scattered(found, others)
    residuals = _residuals(points, flat, camera, first)
    inliers = (residuals**2).sum(axis=1) < max_error_px**2
    return PnP(first, inliers, None, residual_sigma_px(residuals[inliers]))


def poses_of_halves(
    points_world: NDArray[np.floating],
    pixels: NDArray[np.floating],
    camera: Camera,
    *,
    runs: int,
    max_error_px: float = 6.0,
    confidence: float = 0.9999,
    noise_px: Noise = NOISE_PX,
    sampled: int | None = None,
    seed: int = 0,
) -> list[Pose]:
    """`world_from_cam` of `runs` further RANSACs, each of another seed and on another random half of the matches.

    Each pose is refined once, on the matches of its half that agree with it. A half that fixes no pose is left out, so
    there may be fewer; fewer than 8 matches have none that does. `seed` draws halves and samples.

    Args:
        noise_px, confidence, sampled: as in `solve_pnp`; `sampled` of each half.
    """
    points, image = _checked(points_world, pixels)
    noise = np.broadcast_to(np.asarray(noise_px, np.float64), len(image))
    flat = camera.undistort(image)
    usable = np.flatnonzero(np.isfinite(flat).all(axis=1))
    ransac = _Ransac(max_error_px, confidence, sampled)
    poses = []
    for run, half in enumerate(halves(len(usable), runs, seed), start=1):
        of = usable[half]
        pose = ransac.pose(points[of], flat[of], camera, seed + run)
        if pose is None:
            continue
        of = of[_agree(points[of], flat[of], camera, pose, max_error_px)]
        if len(of) >= 4:
            poses.append(_least_squares(points[of], flat[of], camera, pose, None, noise[of], least_gain=_GAINS[0]))
    return poses


def halves(count: int, runs: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """`runs` random halves of the numbers below `count`, each in rising order."""
    random = np.random.default_rng(seed)
    for _ in range(runs):
        yield np.sort(random.permutation(count)[: count // 2])


def scattered(found: PnP, others: Sequence[Pose]) -> PnP:
    """An answer T with the scatter of other runs about it added to its covariance: Σ + Σ_k ξ_k ξ_kᵀ / K.

    ξ_k = log(T⁻¹ T_k), T_k of K random halves of the matches. The delete-d jackknife (Shao and Wu 1989) has
    (n - d) / d Σ_k ξ_k ξ_kᵀ / K for the variance of T; of halves, d = n / 2, nothing has to be scaled. So where nothing
    but noise is wrong both terms say the same, and their sum is twice that: calibrate maps with their runs. What the
    first term cannot know is in the second: a half that finds another place altogether, ξ_k away, is at most √K of the
    stated standard deviations off. A rival needs a share of matches that halves tell from the winner's by chance:
    of 45 in 100 each sixth half finds it, of 450 in 1000 one in a thousand.
    """
    if found.world_from_cam is None or found.covariance is None or not others:
        return found
    return replace(found, covariance=found.covariance + scatter(others, found.world_from_cam))


def refine_pnp(
    points_world: NDArray[np.floating],
    pixels: NDArray[np.floating],
    camera: Camera,
    world_from_cam: Pose,
    *,
    point_covariance: NDArray[np.floating] | None = None,
    max_error_px: float = 6.0,
    noise_px: Noise = NOISE_PX,
    sampled: int | None = None,
) -> PnP:
    """Robust least squares around a first pose over the matches that agree with it, and the covariance of the answer.

    Minimises Σ ρ(r_iᵀ S_i⁻¹ r_i) over the pixels of the distortion-free camera, r_i the reprojection error,
    ρ(s) = log(1 + s) (Cauchy), S_i = `noise_px`² I + A_i Σ_i A_iᵀ, where Σ_i is the covariance of point i and A_i the
    derivative of its pixel: points that were seen from one side only count less across their line of sight.

    Args:
        point_covariance: (N, 3, 3) in world axes; None for points that are exact.
        max_error_px: how far off a match may be to take part; decided anew after the first solution.
        noise_px: standard deviation of the pixels, of all alike or (N,) of each.
        sampled: the first solution takes so many matches at most, spread evenly.
    """
    points, image = _checked(points_world, pixels)
    covariance = None if point_covariance is None else np.asarray(point_covariance, np.float64)
    noise = np.broadcast_to(np.asarray(noise_px, np.float64), len(image))
    flat = camera.undistort(image)
    for gain in _GAINS:
        inliers = _agree(points, flat, camera, world_from_cam, max_error_px)
        if inliers.sum() < 4:
            return PnP(None, inliers, None, float("nan"))
        kept = np.flatnonzero(inliers) if gain == _GAINS[-1] else _some(np.flatnonzero(inliers), sampled)
        chosen = None if covariance is None else covariance[kept]
        some = (points[kept], flat[kept], camera, world_from_cam, chosen, noise[kept])
        world_from_cam = _least_squares(*some, least_gain=gain)
    inliers = _agree(points, flat, camera, world_from_cam, max_error_px)
    if inliers.sum() < 4:
        return PnP(None, inliers, None, float("nan"))
    chosen = None if covariance is None else covariance[inliers]
    found = pose_covariance(points[inliers], flat[inliers], camera, world_from_cam, chosen, noise[inliers])
    residuals = _residuals(points[inliers], flat[inliers], camera, world_from_cam)
    return PnP(world_from_cam, inliers, found, residual_sigma_px(residuals))


def pose_covariance(
    points_world: Array,
    pixels: Array,
    camera: Camera,
    world_from_cam: Pose,
    point_covariance: Array | None = None,
    noise_px: Noise = NOISE_PX,
) -> Array:
    """(6, 6) covariance of a refined pose: right perturbation of `world_from_cam`, (rx ry rz tx ty tz).

    Huber's covariance of an M-estimate (1981, eq. 6.5): Σ = K² [Σ |ψ|² / (2 N - 6)] / m² (Σ J_iᵀ S_i⁻¹ J_i)⁻¹ with J of
    `projection_jacobian`, S of `refine_pnp`, Cauchy's ψ = r / (1 + |r|²) of the whitened residuals r, m and v the mean
    and variance of its slope 1 / (1 + |r|²)², and K = 1 + 3 v / (N m²) for few matches. A direction that the matches
    leave open comes out huge.

    Args:
        pixels: (N, 2) px of the distortion-free camera.
    """
    whitening = _whitening(points_world, camera, world_from_cam, point_covariance, noise_px)
    squares, _, jacobian = _linearised(points_world, pixels, camera, world_from_cam, whitening)
    freedom = max(2 * len(points_world) - 6, 1)
    influence = max(float((squares / (1.0 + squares) ** 2).sum()) / freedom, _LEAST_VARIANCE)
    slopes = 1.0 / (1.0 + squares) ** 2
    slope = float(slopes.mean()) / (1.0 + 3.0 * float(slopes.var()) / (len(slopes) * float(slopes.mean()) ** 2))
    hessian = jacobian.T @ jacobian
    # Scaled to a unit diagonal, so that neither the unit of the scene nor that of angles decides what is singular.
    scale = 1.0 / np.sqrt(np.maximum(np.diag(hessian), 1e-300))
    values, vectors = np.linalg.eigh(hessian * np.outer(scale, scale))
    inverse = (vectors / np.maximum(values, 1e-12)) @ vectors.T
    covariance: Array = influence / slope**2 * inverse * np.outer(scale, scale)
    return (covariance + covariance.T) / 2


class _Ransac(NamedTuple):
    """LO-RANSAC with P3P as poselib has it."""

    max_error_px: float
    confidence: float
    sampled: int | None

    def pose(self, points: Array, flat: Array, camera: Camera, seed: int) -> Pose | None:
        """`world_from_cam` on which most of the matches agree, (N, 2) pixels of the distortion-free camera."""
        if len(points) < 4:
            return None
        some = _some(np.arange(len(points)), self.sampled)
        points, flat = points[some], flat[some]
        options = {
            "max_reproj_error": self.max_error_px,
            "seed": seed,
            "success_prob": self.confidence,
            "min_iterations": 50,
            "max_iterations": 10_000,
        }
        # Its last polish may be short, as `refine_pnp` follows: a hundred steps take longer than the search.
        polish = {"loss_type": "CAUCHY", "loss_scale": 1.0, "max_iterations": 5}
        found, report = poselib.estimate_absolute_pose(flat, points, _poselib_camera(camera), options, polish)
        return Pose.nearest(found.Rt).inv if report["num_inliers"] >= 4 else None


def _some(indices: NDArray[np.intp], most: int | None) -> NDArray[np.intp]:
    """So many of them at most; None takes all."""
    return indices if most is None else indices[even_places(len(indices), most)]


def _least_squares(
    points_world: Array,
    flat: Array,
    camera: Camera,
    world_from_cam: Pose,
    point_covariance: Array | None,
    noise_px: Noise,
    *,
    least_gain: float,
) -> Pose:
    """Gauss-Newton with Cauchy's weights, damped when a step does not help; S stays that of the first pose.

    Ends when a step lowers the sum by less than a share `least_gain` of it.
    """
    whitening = _whitening(points_world, camera, world_from_cam, point_covariance, noise_px)
    damping, cost, best = 1e-9, float("inf"), world_from_cam
    for _ in range(15):
        squares, residuals, jacobian = _linearised(points_world, flat, camera, world_from_cam, whitening)
        now = float(np.log1p(squares).sum())
        if now <= cost:
            gain, cost, best = cost - now, now, world_from_cam
            if gain < least_gain * (1.0 + now):
                break
            weighted = jacobian * np.tile(1.0 / (1.0 + squares), 2)[:, None]
            hessian, gradient = weighted.T @ jacobian, weighted.T @ residuals
        elif damping > 1.0:
            break
        else:
            damping *= 100.0
        step = np.linalg.lstsq(hessian + damping * np.diag(np.diag(hessian)), gradient, rcond=None)[0]
        world_from_cam = best @ Pose.exp(step)
    return best


class _Whitening(NamedTuple):
    """L⁻¹ of the Cholesky factors L of S, each 2x2 and lower triangular; (N,) arrays, or numbers for all alike."""

    uu: Array | float
    vu: Array | None
    """None where u and v have nothing to do with each other."""
    vv: Array | float


def _whitening(
    points_world: Array, camera: Camera, world_from_cam: Pose, point_covariance: Array | None, noise_px: Noise
) -> _Whitening:
    if point_covariance is None:
        return _Whitening(1.0 / noise_px, None, 1.0 / noise_px)
    jacobian = projection_jacobian(points_world, camera, world_from_cam)
    by_point = -jacobian[:, :, 3:] @ world_from_cam.rotation.T  # moving the camera forward is moving the point back
    spread = by_point @ point_covariance @ by_point.transpose(0, 2, 1)
    a = np.sqrt(spread[:, 0, 0] + noise_px**2)
    b = spread[:, 0, 1] / a
    c = np.sqrt(spread[:, 1, 1] + noise_px**2 - b**2)
    return _Whitening(1.0 / a, -b / (a * c), 1.0 / c)


def _linearised(
    points_world: Array, flat: Array, camera: Camera, world_from_cam: Pose, whitening: _Whitening
) -> tuple[Array, Array, Array]:
    """Whitened squares (N,), residuals (2 N,) and Jacobian (2 N, 6) of the projections, all u first, then all v."""
    count, jacobian = len(points_world), np.moveaxis(projection_jacobian(points_world, camera, world_from_cam), 0, -1)
    u, v = _residuals(points_world, flat, camera, world_from_cam).T
    residuals, rows = np.empty(2 * count), np.empty((6, 2 * count))
    residuals[:count], rows[:, :count] = whitening.uu * u, whitening.uu * jacobian[0]
    residuals[count:], rows[:, count:] = whitening.vv * v, whitening.vv * jacobian[1]
    if whitening.vu is not None:
        residuals[count:] += whitening.vu * u
        rows[:, count:] += whitening.vu * jacobian[0]
    return residuals[:count] ** 2 + residuals[count:] ** 2, residuals, rows.T


def projection_jacobian(points_world: Array, camera: Camera, world_from_cam: Pose) -> Array:
    """(N, 2, 6) derivative of the pinhole pixels by ξ in `world_from_cam @ exp(ξ)`."""
    return jacobian_in_view((points_world - world_from_cam.translation) @ world_from_cam.rotation, camera)


def jacobian_in_view(points_cam: NDArray[F], camera: Camera) -> NDArray[F]:
    """(..., 2, 6) as `projection_jacobian`, of points (..., 3) in camera axes.

    The point in moved camera axes is exp(-ξ) x ≈ x - ρ - φ × x, so ∂x/∂(φ, ρ) = ([x]×, -I).
    """
    depth: NDArray[F] = points_cam[..., 2]
    a, b, inverse = points_cam[..., 0] / depth, points_cam[..., 1] / depth, 1.0 / depth
    rows = np.zeros((2, 6, *depth.shape), dtype=depth.dtype)  # each of twelve is written at once
    u, v = rows[0], rows[1]
    u[0], u[1], u[2], u[3], u[5] = a * b, -1.0 - a * a, b, -inverse, a * inverse
    v[0], v[1], v[2], v[4], v[5] = 1.0 + b * b, -u[0], -a, -inverse, b * inverse
    u *= camera.fx
    v *= camera.fy
    return np.moveaxis(rows, (0, 1), (-2, -1))


def residual_sigma_px(residuals_px: Array) -> float:
    """Robust standard deviation of (N, 2) residuals: 1.4826 times the median of their absolute values."""
    return float(1.4826 * np.median(np.abs(residuals_px))) if len(residuals_px) else float("nan")


def _residuals(points_world: Array, flat: Array, camera: Camera, world_from_cam: Pose) -> Array:
    """(N, 2) px in the distortion-free camera; inf where a point is behind it or a pixel has no ray."""
    x, y, z = world_from_cam.rotation.T @ (points_world - world_from_cam.translation).T
    residuals = np.empty((2, len(z)))
    with np.errstate(divide="ignore", invalid="ignore"):
        residuals[0] = flat[:, 0] - (x / z * camera.fx + camera.cx)
        residuals[1] = flat[:, 1] - (y / z * camera.fy + camera.cy)
    residuals[:, (z <= 0) | ~np.isfinite(residuals[0] + residuals[1])] = np.inf
    return residuals.T


def _agree(points_world: Array, flat: Array, camera: Camera, world_from_cam: Pose, max_error_px: float) -> Mask:
    residuals = _residuals(points_world, flat, camera, world_from_cam)
    agreeing: Mask = (residuals**2).sum(axis=1) < max_error_px**2
    return agreeing


def _poselib_camera(camera: Camera) -> dict[str, object]:
    return {
        "model": "PINHOLE",
        "width": camera.width,
        "height": camera.height,
        "params": [camera.fx, camera.fy, camera.cx, camera.cy],
    }


def _checked(points_world: NDArray[np.floating], pixels: NDArray[np.floating]) -> tuple[Array, Array]:
    points, image = np.asarray(points_world, np.float64), np.asarray(pixels, np.float64)
    if points.shape != (len(image), 3) or image.shape != (len(image), 2):
        raise ValueError(f"matches are (N, 3) and (N, 2), not {points.shape} and {image.shape}")
    if not (np.isfinite(points).all() and np.isfinite(image).all()):
        raise ValueError("a match is not finite")
    return points, image
