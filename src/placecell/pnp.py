"""2D-3D matches to a pose and its covariance: the one place for RANSAC."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import poselib
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.pose import Array, Pose

Mask = NDArray[np.bool_]


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
    seed: int = 0,
) -> PnP:
    """Camera pose from 2D-3D matches: LO-RANSAC with P3P (poselib), then `refine_pnp` on its inliers.

    Args:
        points_world: (N, 3) in the world frame.
        pixels: (N, 2) px of `camera`, distorted as the picture is.
        max_error_px: a match agrees when its reprojection error is below this.

    Raises:
        ValueError: shapes disagree, or a coordinate is not finite.
    """
    points, image = _checked(points_world, pixels)
    flat = camera.undistort(image)
    usable = np.isfinite(flat).all(axis=1)
    none = PnP(None, np.zeros(len(image), dtype=bool), None, float("nan"))
    if usable.sum() < 4:
        return none
    options = {
        "max_reproj_error": max_error_px,
        "seed": seed,
        "success_prob": confidence,
        "min_iterations": 50,
        "max_iterations": 10_000,
    }
    found, report = poselib.estimate_absolute_pose(
        flat[usable], points[usable], _poselib_camera(camera), options, {"loss_type": "CAUCHY", "loss_scale": 1.0}
    )
    if report["num_inliers"] < 4:
        return none
    return refine_pnp(points, image, camera, Pose.nearest(found.Rt).inv, max_error_px=max_error_px)


def refine_pnp(
    points_world: NDArray[np.floating],
    pixels: NDArray[np.floating],
    camera: Camera,
    world_from_cam: Pose,
    *,
    max_error_px: float = 6.0,
) -> PnP:
    """Least squares around a first pose over the matches that agree with it, and the covariance of the answer.

    Minimises Σ ρ(|π(x_i) - u_i|²) with Cauchy's ρ at one pixel over the pixels of the distortion-free camera, by
    poselib; matches are taken in again after the first pass. `max_error_px` decides who takes part.
    """
    points, image = _checked(points_world, pixels)
    flat = camera.undistort(image)
    residuals = _residuals(points, flat, camera, world_from_cam)
    for _ in range(2):
        inliers = (residuals**2).sum(axis=1) < max_error_px**2
        if inliers.sum() < 4:
            break
        world_from_cam = _least_squares(points[inliers], flat[inliers], camera, world_from_cam)
        residuals = _residuals(points, flat, camera, world_from_cam)
    inliers = (residuals**2).sum(axis=1) < max_error_px**2
    if inliers.sum() < 4:
        return PnP(None, inliers, None, float("nan"))
    covariance = pose_covariance(points[inliers], residuals[inliers], camera, world_from_cam)
    return PnP(world_from_cam, inliers, covariance, residual_sigma_px(residuals[inliers]))


def pose_covariance(points_world: Array, residuals_px: Array, camera: Camera, world_from_cam: Pose) -> Array:
    """(6, 6) covariance of a refined pose: right perturbation of `world_from_cam`, (rx ry rz tx ty tz).

    Σ = s² H⁻¹ with H = Σ w_i J_iᵀ J_i, the Jacobian of `projection_jacobian`, Cauchy's weights w = 1 / (1 + |r|²) and
    s² = Σ w |r|² / (2 Σ w - 6), floored at a hundredth of a pixel squared.
    """
    jacobian = projection_jacobian(points_world, camera, world_from_cam)
    squares = (residuals_px**2).sum(axis=1)
    weights = 1.0 / (1.0 + squares)
    hessian = np.einsum("n,nij,nik->jk", weights, jacobian, jacobian)
    freedom = max(2.0 * float(weights.sum()) - 6.0, 1.0)
    variance = max(float((weights * squares).sum()) / freedom, 0.01)
    return variance * _inverse(hessian)


def _inverse(hessian: Array) -> Array:
    """Inverse of a positive semi-definite matrix, huge along what the matches leave open, whatever the units."""
    scale = 1.0 / np.sqrt(np.maximum(np.diag(hessian), 1e-300))
    values, vectors = np.linalg.eigh(hessian * np.outer(scale, scale))
    root = scale[:, None] * vectors / np.sqrt(np.maximum(values, 1e-12))
    inverse: Array = root @ root.T
    return inverse


def projection_jacobian(points_world: Array, camera: Camera, world_from_cam: Pose) -> Array:
    """(N, 2, 6) derivative of the pinhole pixels by ξ in `world_from_cam @ exp(ξ)`.

    The point in moved camera axes is exp(-ξ) x ≈ x - ρ - φ × x, so ∂x/∂(φ, ρ) = ([x]×, -I).
    """
    x, y, z = np.moveaxis(world_from_cam.inv.apply(points_world), -1, 0)
    zero = np.zeros_like(x)
    by_point = np.stack(
        [
            np.stack([camera.fx / z, zero, -camera.fx * x / z**2], axis=-1),
            np.stack([zero, camera.fy / z, -camera.fy * y / z**2], axis=-1),
        ],
        axis=-2,
    )
    cross = np.stack(
        [
            np.stack([zero, -z, y], axis=-1),
            np.stack([z, zero, -x], axis=-1),
            np.stack([-y, x, zero], axis=-1),
        ],
        axis=-2,
    )
    return np.concatenate([by_point @ cross, -by_point], axis=-1)


def residual_sigma_px(residuals_px: Array) -> float:
    """Robust standard deviation of (N, 2) residuals: 1.4826 times the median of their absolute values."""
    return float(1.4826 * np.median(np.abs(residuals_px))) if len(residuals_px) else float("nan")


def _residuals(points_world: Array, flat: Array, camera: Camera, world_from_cam: Pose) -> Array:
    """(N, 2) px; inf where a point is behind the camera or a pixel has no ray."""
    return np.nan_to_num(flat - camera.pinhole.project(world_from_cam.inv.apply(points_world)), nan=np.inf)


def _least_squares(points_world: Array, flat: Array, camera: Camera, world_from_cam: Pose) -> Pose:
    start = poselib.CameraPose()
    start.q, start.t = world_from_cam.inv.quat_wxyz, world_from_cam.inv.translation
    refined, _ = poselib.refine_absolute_pose(
        flat, points_world, start, _poselib_camera(camera), {"loss_type": "CAUCHY", "loss_scale": 1.0}
    )
    return Pose.nearest(refined.Rt).inv


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
