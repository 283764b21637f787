"""Intrinsics: how a camera turns points in front of it into pixels, and pixels into rays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from placecell.errors import FormatError
from placecell.pose import Array

CameraModel = Literal["pinhole", "opencv", "fisheye"]

_DISTORTION_LENGTHS: dict[str, tuple[int, ...]] = {"pinhole": (0,), "opencv": (4, 5, 8), "fisheye": (4,)}


@dataclass(frozen=True)
class Camera:
    """Intrinsics of one camera at one image size. Immutable.

    Pixel (0, 0) is the outer corner of the top-left pixel, whose centre is (0.5, 0.5); x right, y down, z forward.

    Models, with (x, y) = (X/Z, Y/Z), r² = x² + y²:
        pinhole: u = fx x + cx, v = fy y + cy.
        opencv:  distortion (k1 k2 p1 p2 [k3 [k4 k5 k6]]), Brown-Conrady with the rational denominator.
        fisheye: distortion (k1 k2 k3 k4), equidistant: θ (1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸), θ = atan r.

    A distortion polynomial holds as far out as it grows. Where it folds back it would put things far outside the view
    into the image, so points beyond have no pixel here (NaN); OpenCV and COLMAP let them through.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    model: CameraModel = "pinhole"
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        values = (self.fx, self.fy, self.cx, self.cy, *self.distortion)
        if self.model not in get_args(CameraModel):
            raise FormatError(f"unknown camera model {self.model!r}; known: {', '.join(get_args(CameraModel))}")
        if len(self.distortion) not in _DISTORTION_LENGTHS[self.model]:
            raise FormatError(
                f"camera model {self.model} takes {_DISTORTION_LENGTHS[self.model]} distortion values, "
                f"not {len(self.distortion)}"
            )
        if self.width < 1 or self.height < 1 or not np.isfinite(values).all() or min(self.fx, self.fy) <= 0:
            raise FormatError(
                f"not a camera: {self.width}x{self.height} px, focal lengths {self.fx} {self.fy}; "
                "sizes and focal lengths must be positive and finite"
            )
        if self.width != int(self.width) or self.height != int(self.height):
            raise FormatError(f"not a camera: {self.width}x{self.height} px; sizes are whole pixels")
        # Plain numbers, so that equal cameras read the same in JSON, whatever a reader made them of.
        for key in ("width", "height"):
            object.__setattr__(self, key, int(getattr(self, key)))
        for key in ("fx", "fy", "cx", "cy"):
            object.__setattr__(self, key, float(getattr(self, key)))
        object.__setattr__(self, "distortion", tuple(float(v) for v in self.distortion))

    @classmethod
    def from_focal(cls, width: int, height: int, focal_px: float) -> Camera:
        """A pinhole with square pixels and its principal point in the middle of the image."""
        return cls(width, height, focal_px, focal_px, width / 2, height / 2)

    @property
    def matrix(self) -> Array:
        """(3, 3) K, without the distortion."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def pixel_centres(self) -> Array:
        """(height, width, 2) where the pixels of the picture are."""
        return np.stack(np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5), axis=-1)

    def project(self, points_cam: ArrayLike) -> Array:
        """Pixels (..., 2) of points (..., 3) in camera axes; NaN behind the camera (z <= 0) and beyond the model."""
        points = np.asarray(points_cam, dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            image = points[..., :2] / np.where(points[..., 2:] > 0, points[..., 2:], np.nan)
            return self._to_pixels(self._distort(np.where(self._holds_at(image), image, np.nan)))

    def rays(self, pixels: ArrayLike) -> Array:
        """Directions (..., 3) in camera axes with z = 1 through pixels (..., 2); inverts `project`.

        NaN where no ray of the model reaches the pixel (a fisheye beyond 90 degrees, say).
        """
        image = (np.asarray(pixels, dtype=np.float64) - (self.cx, self.cy)) / (self.fx, self.fy)
        with np.errstate(over="ignore", invalid="ignore"):
            undistorted = self._undistort(image)
            undistorted = np.where(self._holds_at(undistorted), undistorted, np.nan)
        return np.concatenate([undistorted, np.ones_like(undistorted[..., :1])], axis=-1)

    def undistort(self, pixels: ArrayLike) -> Array:
        """Pixels (..., 2) of the same rays in the distortion-free camera `self.pinhole`."""
        if self.model == "pinhole":
            return np.array(pixels, dtype=np.float64)
        return self._to_pixels(self.rays(pixels)[..., :2])

    @property
    def pinhole(self) -> Camera:
        """This camera without its distortion."""
        return replace(self, model="pinhole", distortion=())

    def resized(self, width: int, height: int) -> Camera:
        """The camera of the image stretched to another size: u' = u * width' / width."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=self.cx * sx,
            cy=self.cy * sy,
        )

    def cropped(self, left: int, top: int, width: int, height: int) -> Camera:
        """The camera of the window of `width` x `height` whose outer corner lies at (left, top)."""
        return replace(self, width=width, height=height, cx=self.cx - left, cy=self.cy - top)

    def contains(self, pixels: ArrayLike) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Whether each pixel (..., 2) lies on the image; False for NaN."""
        values = np.asarray(pixels, dtype=np.float64)
        inside: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = (
            (values >= 0).all(axis=-1) & (values[..., 0] < self.width) & (values[..., 1] < self.height)
        )
        return inside

    def _to_pixels(self, image: Array) -> Array:
        return image * (self.fx, self.fy) + (self.cx, self.cy)

    def _holds_at(self, image: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """(..., 1) whether the model holds at undistorted (x, y)."""
        limit = _fold(self.model, self.distortion)
        holds: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = np.hypot(image[..., :1], image[..., 1:]) < limit
        return holds

    def _distort(self, image: Array) -> Array:
        if self.model == "pinhole":
            return image
        if self.model == "fisheye":
            radius = np.linalg.norm(image, axis=-1, keepdims=True)
            theta = np.arctan(radius)
            scale = np.where(radius > 1e-9, self._fisheye_radius(theta) / np.maximum(radius, 1e-9), 1.0)
            return image * scale
        k1, k2, p1, p2, k3, k4, k5, k6 = (*self.distortion, *(0.0,) * (8 - len(self.distortion)))
        x, y = image[..., 0], image[..., 1]
        r2 = x * x + y * y
        radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        return np.stack(
            [
                x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
                y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
            ],
            axis=-1,
        )

    def _fisheye_radius(self, theta: Array) -> Array:
        k1, k2, k3, k4 = self.distortion
        t2 = theta * theta
        return theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))

    def _undistort(self, image: Array) -> Array:
        if self.model == "pinhole":
            return image
        if self.model == "fisheye":
            return self._undistort_fisheye(image)
        return self._undistort_opencv(image)

    def _undistort_opencv(self, image: Array) -> Array:
        # Newton steps on image(x) = target with a numeric 2x2 Jacobian; NaN where they do not settle.
        guess = image.copy()
        step = 1e-6
        for _ in range(20):
            error = self._distort(guess) - image
            jacobian = np.stack(
                [
                    (self._distort(guess + offset) - self._distort(guess - offset)) / (2 * step)
                    for offset in (np.array([step, 0.0]), np.array([0.0, step]))
                ],
                axis=-1,
            )
            det = jacobian[..., 0, 0] * jacobian[..., 1, 1] - jacobian[..., 0, 1] * jacobian[..., 1, 0]
            det = np.where(np.abs(det) > 1e-12, det, np.nan)
            dx = (jacobian[..., 1, 1] * error[..., 0] - jacobian[..., 0, 1] * error[..., 1]) / det
            dy = (jacobian[..., 0, 0] * error[..., 1] - jacobian[..., 1, 0] * error[..., 0]) / det
            guess = guess - np.stack([dx, dy], axis=-1)
            if not np.nanmax(np.abs(error), initial=0.0) > 1e-12:
                break
        settled = np.abs(self._distort(guess) - image).max(axis=-1, keepdims=True) < 1e-8
        return np.where(settled, guess, np.nan)

    def _undistort_fisheye(self, image: Array) -> Array:
        radius = np.linalg.norm(image, axis=-1, keepdims=True)
        theta = np.minimum(radius, 1.5)
        k1, k2, k3, k4 = self.distortion
        for _ in range(20):
            t2 = theta * theta
            slope = 1 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + t2 * 9 * k4)))
            theta = theta - (self._fisheye_radius(theta) - radius) / np.where(np.abs(slope) > 1e-9, slope, np.nan)
        good = (np.abs(self._fisheye_radius(theta) - radius) < 1e-8) & (theta >= 0) & (theta < np.pi / 2 - 1e-4)
        theta = np.where(good, theta, np.nan)
        return np.where(radius > 1e-9, image * np.tan(theta) / np.maximum(radius, 1e-9), image)


@lru_cache(maxsize=256)
def _fold(model: CameraModel, distortion: tuple[float, ...]) -> float:
    """Radius r up to which the distorted radius grows: the first zero of its slope, or of its denominator."""
    if not any(distortion):
        return np.inf
    if model == "fisheye":
        slope = np.polynomial.Polynomial([1.0, *(k * (2 * i + 3) for i, k in enumerate(distortion))])  # in θ²
        theta = np.sqrt(_first_positive_root(slope))
        return float(np.tan(theta)) if theta < np.pi / 2 else np.inf
    k1, k2, _, _, k3, k4, k5, k6 = (*distortion, *(0.0,) * (8 - len(distortion)))
    above, below = np.polynomial.Polynomial([1.0, k1, k2, k3]), np.polynomial.Polynomial([1.0, k4, k5, k6])  # in r²
    r2 = np.polynomial.Polynomial([0.0, 1.0])
    slope = above * below + 2 * r2 * (above.deriv() * below - above * below.deriv())  # of r above / below, times below²
    return float(np.sqrt(min(_first_positive_root(slope), _first_positive_root(below))))


def _first_positive_root(polynomial: np.polynomial.Polynomial) -> float:
    roots = polynomial.trim(1e-15).roots()
    real = roots.real[(np.abs(roots.imag) <= 1e-9 * np.abs(roots)) & (roots.real > 0)]
    return float(real.min(initial=np.inf))
