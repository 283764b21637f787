"""Mixtures of modes under projection: how likely poses make what pixels without depth may show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from placecell.camera import Camera
from placecell.families.coordinates.modes import Floats, Indices, chunks, drawn_by
from placecell.families.coordinates.p3p import p3p, pose_of_triangles
from placecell.pnp import jacobian_in_view
from placecell.pose import Array

_DRAWS = 32
"""Samples tried at once for each hypothesis wanted: most do not agree."""
_MOST_DRAWS = 8
_ROWS, _COLUMNS = np.triu_indices(3)
_STRAY = 0.1
"""Least share of pixels that are none of their modes."""
_NEAREST = 1e-3
"""Least depth of a point in front of a camera, in the unit of the scene."""
_WIDEST = 10.0
"""Largest x/z of a point that a camera may see; farther out squares grow beyond single precision."""


@dataclass(frozen=True, eq=False)
class Mixtures:
    """Up to K Gaussian modes of N pixels; their densities are those of Brachmann et al. 2016, marginalised over depth.

    Under a pose mode k of pixel i shows at π(m) with covariance S = σ² I + A Σ Aᵀ: Σ is the covariance of the mode, A
    the derivative of its pixel, and σ a quarter of `max_error_px`, for what a mode is off beyond its own spread (our
    reading). The likelihood of the pixel is Σ_k w_k N(p; π(m_k), S_k) + w_0 / (W H): a pixel may be none of its modes.
    """

    pixels: Array
    """(N, 2) px of the distortion-free camera."""
    world: Floats
    """(K, N, 3)."""
    weight: Floats
    """(K, N)."""
    covariance: Floats | None
    """(K, N, 3, 3) in world axes; None for modes without spread."""
    camera: Camera
    """Without distortion."""
    max_error_px: float

    def __len__(self) -> int:
        return len(self.pixels)

    def only(self, pixels: Indices) -> Mixtures:
        """Those of some pixels."""
        covariance = None if self.covariance is None else self.covariance[:, pixels]
        world, weight = self.world[:, pixels], self.weight[:, pixels]
        return Mixtures(self.pixels[pixels], world, weight, covariance, self.camera, self.max_error_px)

    def hypotheses(self, count: int, random: np.random.Generator) -> tuple[Floats, Floats]:
        """Rotations (H, 3, 3) and translations (H, 3) of `world_from_cam`, up to `count`, from four pixels each.

        Each pixel comes with one mode, drawn by weight. Three give up to four poses by P3P, and those that put the
        fourth within `max_error_px` of its pixel count. Triangles narrower than three times that are left out.
        """
        mode, pixel = np.divmod(drawn_by(self.weight, _DRAWS * count, random), len(self))
        world, pixels = self.world[mode, pixel].astype(np.float64), self.pixels[pixel]
        rays = self.camera.rays(pixels)
        poses = [(np.zeros((0, 3, 3)), np.zeros((0, 3)))]
        for _ in range(_MOST_DRAWS):
            tried = random.integers(0, len(pixel), (_DRAWS * count, 4))
            other = (pixel[tried[:, :3]] != pixel[tried[:, 3:]]).all(axis=1)  # or the fourth would say nothing
            tried = tried[other & (_narrowest_px(pixels[tried[:, :3]]) > 3 * self.max_error_px)]
            poses.append(self._agreeing(world[tried], pixels[tried], rays[tried]))
            if sum(len(rotation) for rotation, _ in poses) >= count:
                break
        rotation, translation = (np.concatenate(parts)[:count] for parts in zip(*poses, strict=True))
        return rotation.astype(np.float32), translation.astype(np.float32)

    def energy(self, rotation: Floats, translation: Floats) -> Array:
        """(H,) negative log-likelihood of the pixels."""
        found = np.zeros(len(rotation))
        for some in chunks(len(rotation), 16 * len(self)):
            likelihood = self._likelihood(rotation[some], translation[some])
            found[some] = -np.log(likelihood).sum(axis=1, dtype=np.float64)
        return found

    def refined(self, rotation: Floats, translation: Floats) -> tuple[Floats, Floats]:
        """Each pose after a step that makes the pixels likelier, or as it was."""
        turned, moved = rotation.copy(), translation.copy()
        for some in chunks(len(rotation), 16 * len(self)):
            before = rotation[some], translation[some]
            cost, after = self._stepped(*before)
            better = self.energy(*after) < cost
            turned[some] = np.where(better[:, None, None], after[0], before[0])
            moved[some] = np.where(better[:, None], after[1], before[1])
        return turned, moved

    def likeliest(self, rotation: Array, translation: Array) -> tuple[Array, Array | None]:
        """(N, 3) mode of each pixel that is likeliest under one pose, and its (N, 3, 3) covariance."""
        one = rotation[None].astype(np.float32), translation[None].astype(np.float32)
        densities = [self._view(*one, mode).density[0] for mode in range(len(self.world))]
        chosen = (np.argmax(densities, axis=0), np.arange(len(self)))
        covariance = None if self.covariance is None else self.covariance[chosen].astype(np.float64)
        return self.world[chosen].astype(np.float64), covariance

    def _agreeing(self, world: Array, pixels: Array, rays: Array) -> tuple[Array, Array]:
        """`world_from_cam` of those samples (T, 4) whose fourth point shows within `max_error_px` of its pixel."""
        unit = rays[:, :3] / np.linalg.norm(rays[:, :3], axis=-1, keepdims=True)
        sample, triangles = p3p(unit, world[:, :3])
        rotation, translation = pose_of_triangles(world[sample, :3], triangles)
        fourth = ((world[sample, 3] - translation)[:, None] @ rotation)[:, 0]
        agreeing = np.linalg.norm(self.camera.project(fourth) - pixels[sample, 3], axis=-1) < self.max_error_px
        return rotation[agreeing], translation[agreeing]

    def _likelihood(self, rotation: Floats, translation: Floats) -> Floats:
        """(H, N) of the pixels, per square pixel."""
        found = np.tile(self._stray, (len(rotation), 1))
        for mode in range(len(self.world)):
            found += self._view(rotation, translation, mode).density
        return found

    @property
    def _stray(self) -> Floats:
        """(N,) density of a pixel that is none of its modes."""
        share = np.maximum(1.0 - self.weight.sum(axis=0), _STRAY)
        density: Floats = (share / (self.camera.width * self.camera.height)).astype(np.float32)
        return density

    def _stepped(self, rotation: Floats, translation: Floats) -> tuple[Array, tuple[Floats, Floats]]:
        """Negative log-likelihoods (H,), and the poses after one damped Gauss-Newton step of lowering them.

        A pixel counts with its likeliest mode, by the probability that it is that one.
        """
        best = self._view(rotation, translation, 0)
        likelihood = self._stray + best.density
        for mode in range(1, len(self.world)):
            view = self._view(rotation, translation, mode)
            likelihood += view.density
            likelier = view.density > best.density
            for kept, new in zip(best, view, strict=True):
                np.copyto(kept, new, where=likelier)
        share = best.density / (likelihood * best.det)
        jacobian = jacobian_in_view(
            np.stack([best.a * best.depth, best.b * best.depth, best.depth], axis=-1), self.camera
        )
        by_u, by_v = jacobian[..., 0, :], jacobian[..., 1, :]
        uu, uv, vv = (share * entry for entry in (best.uu, best.uv, best.vv))
        # Rows of share S⁻¹ J.
        weighted_u = vv[..., None] * by_u - uv[..., None] * by_v
        weighted_v = uu[..., None] * by_v - uv[..., None] * by_u
        information = np.swapaxes(weighted_u, 1, 2) @ by_u + np.swapaxes(weighted_v, 1, 2) @ by_v
        gradient = best.off_u[:, None] @ weighted_u + best.off_v[:, None] @ weighted_v
        turned, moved = _moved(rotation, translation, information.astype(np.float64), gradient[:, 0].astype(np.float64))
        return -np.log(likelihood).sum(axis=1, dtype=np.float64), (turned, moved)

    def _view(self, rotation: Floats, translation: Floats, mode: int) -> _View:
        """One mode of each pixel in H views."""
        camera, (u, v) = self.camera, self.pixels.astype(np.float32).T
        cam_from_world = np.ascontiguousarray(rotation.transpose(0, 2, 1))
        seen = (cam_from_world.reshape(-1, 3) @ self.world[mode].T).reshape(len(rotation), 3, -1)
        seen -= cam_from_world @ translation[..., None]
        x, y, z = seen.transpose(1, 0, 2)
        ahead = (z > _NEAREST) & (np.abs(x) < _WIDEST * z) & (np.abs(y) < _WIDEST * z)
        depth = np.where(ahead, z, np.float32(1.0))
        a, b = (np.where(ahead, across / depth, np.float32(0.0)) for across in (x, y))
        off_u, off_v = (u - camera.cx) - camera.fx * a, (v - camera.cy) - camera.fy * b
        uu, uv, vv, det = self._spread(rotation, mode, a, b, depth)
        square = (vv * off_u**2 - 2 * uv * off_u * off_v + uu * off_v**2) / det
        bell = np.exp(-0.5 * np.clip(square, 0.0, 80.0)) / (2 * np.pi * np.sqrt(det))
        density = np.where(ahead, self.weight[mode], np.float32(0.0)) * bell
        return _View(density, off_u, off_v, a, b, depth, uu, uv, vv, det)

    def _spread(
        self, rotation: Floats, mode: int, a: Floats, b: Floats, depth: Floats
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """S of a mode in H views: uu, uv, vv (H, N) px², and its determinant."""
        floor = np.float32((self.max_error_px / 4) ** 2)
        if self.covariance is None:
            return np.full_like(a, floor), np.zeros_like(a), np.full_like(a, floor), np.full_like(a, floor * floor)
        # Rᵀ Σ R, linear in Σ: its six entries by one product.
        turning = np.einsum("hai,hbi->hiab", rotation[:, :, _ROWS], rotation[:, :, _COLUMNS]).reshape(-1, 9)
        entries = (turning @ self.covariance[mode].reshape(-1, 9).T).reshape(len(rotation), 6, -1)
        xx, xy, xz, yy, yz, zz = entries.transpose(1, 0, 2)
        fx, fy = self.camera.fx / depth, self.camera.fy / depth
        uu = fx * fx * (xx - 2 * a * xz + a * a * zz)
        uv = fx * fy * (xy - a * yz - b * xz + a * b * zz)
        vv = fy * fy * (yy - 2 * b * yz + b * b * zz)
        # Near the camera the first term is a small difference of large numbers; the others bound the determinant.
        det = np.maximum(uu * vv - uv * uv, 0.0) + floor * (uu + vv + floor)
        return uu + floor, uv, vv + floor, det


class _View(NamedTuple):
    """A mode of N pixels in H views, (H, N) each."""

    density: Floats
    """w N(p; π(m), S) at the pixel, per square pixel; 0 behind the camera and far beside it."""
    off_u: Floats
    """Pixel less projection, px."""
    off_v: Floats
    a: Floats
    """x/z."""
    b: Floats
    """y/z."""
    depth: Floats
    uu: Floats
    """Entries of S, px²."""
    uv: Floats
    vv: Floats
    det: Floats


def mixtures_of(
    pixels: Floats,
    points_world: Floats,
    weight: Floats,
    covariance: Floats | None,
    camera: Camera,
    max_error_px: float,
) -> tuple[Mixtures, Array]:
    """The mixtures of the pixels that have a ray and a mode, and the origin (3,) that they are given about."""
    flat = camera.undistort(pixels)
    usable = np.isfinite(flat).all(axis=1) & (weight > 0).any(axis=1)
    shares = np.ascontiguousarray(weight[usable].T)
    world = points_world[usable].transpose(1, 0, 2).astype(np.float64)
    origin = np.median(world[shares > 0], axis=0) if usable.any() else np.zeros(3)
    world = np.where(shares[..., None] > 0, world - origin, 0.0)
    if covariance is not None:
        some = np.moveaxis(covariance[usable], 1, 0)
        covariance = np.where(shares[..., None, None] > 0, some, np.eye(3, dtype=np.float32))
    return Mixtures(flat[usable], world.astype(np.float32), shares, covariance, camera.pinhole, max_error_px), origin


def _moved(rotation: Floats, translation: Floats, information: Array, gradient: Array) -> tuple[Floats, Floats]:
    """Poses after the steps that solve (H, 6, 6) systems, slightly damped."""
    diagonal = np.einsum("hii->hi", information)
    diagonal *= 1.0 + 1e-3
    diagonal += 1e-9 * (1.0 + diagonal.max(axis=1, keepdims=True))
    step = np.linalg.solve(information, gradient[..., None])[..., 0]
    turn = Rotation.from_rotvec(step[:, :3]).as_matrix()
    moved = translation + (rotation @ step[:, 3:, None])[..., 0]
    return (rotation @ turn).astype(np.float32), moved.astype(np.float32)


def _narrowest_px(triangles: Array) -> Array:
    """(T,) heights of triangles (T, 3, 2) over their longest sides."""
    sides = triangles - np.roll(triangles, 1, axis=1)
    twice_area = np.abs(sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0])
    heights: Array = twice_area / np.maximum(np.linalg.norm(sides, axis=-1).max(axis=1), 1e-9)
    return heights
