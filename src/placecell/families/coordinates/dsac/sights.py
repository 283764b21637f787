"""What a picture says of the points that scene coordinates name: where they are in it, or where its depth has them.

The two kinds of query differ in nothing but this. A sight knows the residuals r(y) of points y in camera axes, their
derivatives, and the poses that few points leave possible. Axes are H hypotheses, 3 or D components, N points: one
component after the other, which is what makes thousands of points for dozens of poses quick. All of it is float64: a
pose loses a tenth of a degree in less, and autocast leaves float64 alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from placecell.camera import Camera
from placecell.families.coordinates.p3p import p3p, pose_of_triangles
from placecell.geometry_torch import skew
from placecell.pose import Array
from placecell.rigid import kabsch

Lengths = tuple[float | Tensor, float | Tensor]
"""Along x and y, px; numbers, or (H, 1) of each hypothesis."""
_LEAST_DEPTH = 1e-3
"""Scene units; what is nearer to the camera's plane, or beyond it, is behind the camera."""


class Solutions(NamedTuple):
    """S poses `map_from_cam` that T minimal samples leave possible."""

    sample_S: Tensor
    """Which of the samples each is of, in order."""
    rotation_S33: Tensor
    centre_S3: Tensor


class Sight(Protocol):
    """N measurements of one picture, in the order of its coordinates."""

    minimum: ClassVar[int]
    """How many points make a pose and tell whether it is right."""

    @property
    def usable(self) -> Tensor:
        """(N,) where something was measured."""
        ...

    def at(self, indices: Tensor) -> Self:
        """The measurements of some points: of indices (M,), or a set for each hypothesis, (H, M)."""
        ...

    @classmethod
    def joined(cls, sights: Sequence[Self], of_H: Tensor) -> Self:
        """The sights of hypotheses: of each that one of some pictures, with as many points each, that it is of."""
        ...

    def only(self, hypotheses: Tensor) -> Self:
        """Some of the hypotheses of a joined sight."""
        ...

    def residuals(self, points_cam_H3N: Tensor) -> Tensor:
        """(H, D, N) what the points would show less what is measured; inf behind the camera and where nothing is."""
        ...

    def force(self, points_cam_H3N: Tensor, influence_HDN: Tensor) -> Tensor:
        """(H, 3, N) Σ_d influence_d ∂r_d/∂y."""
        ...

    def normal(self, points_cam_H3N: Tensor, weight_HN: Tensor) -> Tensor:
        """(H, 6, 6) Σ w JᵀJ, J the derivative of residuals by a step (ω, v) of the pose, which moves y by y × ω - v."""
        ...

    def curvature(self, points_cam_H3N: Tensor, influence_HDN: Tensor) -> Tensor:
        """(H, 6, 6) Σ influence_d Gᵀ (∂²r_d/∂y²) G over points and d, G = ∂y/∂(ω, v)."""
        ...

    def poses(self, points_T33: Tensor) -> Solutions:
        """The poses that see three points of the map, in rows, as these T measurements of three do."""
        ...


@dataclass(frozen=True, eq=False)
class Pixels:
    """Pixels of a pinhole: an RGB query. Residuals are pixels; three points leave up to four poses."""

    flat_px: Tensor
    """(..., 2, N) of the distortion-free camera, NaN where a pixel of the real one has no ray."""
    focal_px: Lengths
    middle_px: Lengths
    minimum: ClassVar[int] = 4

    @classmethod
    def of(cls, pixels: NDArray[np.floating] | Tensor, camera: Camera, device: torch.device | str = "cpu") -> Self:
        """Pixels (N, 2) of a picture as its camera has them, distorted or not."""
        flat = torch.from_numpy(camera.undistort(np.asarray(pixels, np.float64))).to(device)
        return cls(flat.mT.contiguous(), (camera.fx, camera.fy), (camera.cx, camera.cy))

    @classmethod
    def joined(cls, sights: Sequence[Self], of_H: Tensor) -> Self:
        """The pixels of hypotheses, (H, 2, N), with lengths (H, 1)."""
        flat = torch.stack([sight.flat_px for sight in sights])[of_H]
        table = torch.tensor([[*sight.focal_px, *sight.middle_px] for sight in sights], dtype=flat.dtype)
        fx, fy, cx, cy = table.to(flat.device)[of_H].unsqueeze(-1).unbind(1)
        return cls(flat, (fx, fy), (cx, cy))

    def only(self, hypotheses: Tensor) -> Self:
        """Some of the hypotheses."""
        fx, fy, cx, cy = (
            length[hypotheses] if isinstance(length, Tensor) else length for length in (*self.focal_px, *self.middle_px)
        )
        return type(self)(self.flat_px[hypotheses], (fx, fy), (cx, cy))

    @property
    def usable(self) -> Tensor:
        """(N,) where the camera has a ray."""
        return self.flat_px.isfinite().all(-2)

    def at(self, indices: Tensor) -> Self:
        """The pixels of some points."""
        return type(self)(_chosen(self.flat_px, indices), self.focal_px, self.middle_px)

    def residuals(self, points_cam_H3N: Tensor) -> Tensor:
        """(H, 2, N) px from the pixels to the projections."""
        x, y, z = points_cam_H3N.unbind(-2)
        seen = (z > _LEAST_DEPTH) & self.usable
        z = torch.where(seen, z, 1.0)
        u_px, v_px = self.flat_px.unbind(-2)
        u = self.focal_px[0] * x / z - (u_px - self.middle_px[0])
        v = self.focal_px[1] * y / z - (v_px - self.middle_px[1])
        return torch.stack([torch.where(seen, u, torch.inf), torch.where(seen, v, torch.inf)], dim=-2)

    def force(self, points_cam_H3N: Tensor, influence_HDN: Tensor) -> Tensor:
        """(H, 3, N): rows of ∂r/∂y are (fx / z, 0, -fx x / z²) and (0, fy / z, -fy y / z²)."""
        x, y, z = points_cam_H3N.unbind(-2)
        u, v = influence_HDN.unbind(-2)
        u, v = self.focal_px[0] * u / z, self.focal_px[1] * v / z
        return torch.stack([u, v, -(u * x + v * y) / z], dim=-2)

    def normal(self, points_cam_H3N: Tensor, weight_HN: Tensor) -> Tensor:
        """(H, 6, 6) with the J of `pnp.projection_jacobian`."""
        x, y, z = points_cam_H3N.unbind(-2)
        near, root, (fx, fy) = 1 / z, weight_HN.sqrt(), self.focal_px
        a, b, zero = x * near, y * near, torch.zeros_like(z)
        u, v = fx * root, fy * root
        ua, vb = u * a, v * b
        by_u = torch.stack([ua * b, -u - ua * a, u * b, -u * near, zero, ua * near], dim=-2)
        by_v = torch.stack([v + vb * b, -vb * a, -v * a, zero, -v * near, vb * near], dim=-2)
        return by_u @ by_u.mT + by_v @ by_v.mT

    def curvature(self, points_cam_H3N: Tensor, influence_HDN: Tensor) -> Tensor:
        """(H, 6, 6): u = fx x / z has ∂²u/∂x∂z = -fx / z² and ∂²u/∂z² = 2 fx x / z³, v likewise.

        So each point gives g qᵀ + q gᵀ, g = ∂z/∂(ω, v), q = s ∂x/∂(ω, v) + t ∂y/∂(ω, v) - (s x + t y) / z g.
        """
        x, y, z = points_cam_H3N.unbind(-2)
        u, v = influence_HDN.unbind(-2)
        s, t, zero, one = (
            -self.focal_px[0] * u / z.square(),
            -self.focal_px[1] * v / z.square(),
            0 * z,
            torch.ones_like(z),
        )
        c = -(s * x + t * y) / z
        g = torch.stack([-y, x, zero, zero, zero, -one], dim=-2)
        q = torch.stack([t * z - c * y, c * x - s * z, s * y - t * x, -s, -t, -c], dim=-2)
        half = g @ q.mT
        return half + half.mT

    def poses(self, points_T33: Tensor) -> Solutions:
        """P3P, all samples at once."""
        u, v = self.flat_px.unbind(-2)
        image = [(u - self.middle_px[0]) / self.focal_px[0], (v - self.middle_px[1]) / self.focal_px[1]]
        rays = torch.stack([*image, torch.ones_like(u)], dim=-1)
        points = points_T33.cpu().numpy()
        sample, points_cam = p3p((rays / rays.norm(dim=-1, keepdim=True)).cpu().numpy(), points)
        order = np.argsort(sample, kind="stable")
        sample, points_cam = sample[order], points_cam[order]
        rotation, centre = pose_of_triangles(points[sample], points_cam)
        return _whole(sample, rotation, centre, points_T33.device)


@dataclass(frozen=True, eq=False)
class Depths:
    """Points in camera axes by the depth of an RGB-D query. Residuals are in the unit of the scene."""

    points_cam: Tensor
    """(..., 3, N), NaN where there is no depth."""
    minimum: ClassVar[int] = 3

    @classmethod
    def of(cls, points_cam: NDArray[np.floating] | Tensor, device: torch.device | str = "cpu") -> Self:
        """Points (N, 3) in camera axes, NaN where there is no depth."""
        return cls(torch.as_tensor(points_cam, dtype=torch.float64, device=device).mT.contiguous())

    @classmethod
    def joined(cls, sights: Sequence[Self], of_H: Tensor) -> Self:
        """The depth of hypotheses, (H, 3, N)."""
        return cls(torch.stack([sight.points_cam for sight in sights])[of_H])

    def only(self, hypotheses: Tensor) -> Self:
        """Some of the hypotheses."""
        return type(self)(self.points_cam[hypotheses])

    @property
    def usable(self) -> Tensor:
        """(N,) where there is depth."""
        return self.points_cam.isfinite().all(-2)

    def at(self, indices: Tensor) -> Self:
        """The depth of some points."""
        return type(self)(_chosen(self.points_cam, indices))

    def residuals(self, points_cam_H3N: Tensor) -> Tensor:
        """(H, 3, N) from where the depth has the points."""
        known = self.usable.unsqueeze(-2)
        return torch.where(known, points_cam_H3N - torch.where(known, self.points_cam, 0.0), torch.inf)

    def force(self, points_cam_H3N: Tensor, influence_HDN: Tensor) -> Tensor:
        """(H, 3, N), the influence itself."""
        return influence_HDN

    def normal(self, points_cam_H3N: Tensor, weight_HN: Tensor) -> Tensor:
        """(H, 6, 6) with J = ([y]×, -I): no more than the moments of the points."""
        weighted = points_cam_H3N * weight_HN.unsqueeze(-2)
        second, first, total = weighted @ points_cam_H3N.mT, weighted.sum(-1), weight_HN.sum(-1)[:, None, None]
        one, side = torch.eye(3).to(second), skew(first)
        turn = second.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] * one - second
        return torch.cat([torch.cat([turn, side], -1), torch.cat([side.mT, total * one], -1)], -2)

    def curvature(self, points_cam_H3N: Tensor, influence_HDN: Tensor) -> Tensor:
        """Zero: these residuals are linear."""
        return points_cam_H3N.new_zeros(len(points_cam_H3N), 6, 6)

    def poses(self, points_T33: Tensor) -> Solutions:
        """Kabsch: one pose a sample."""
        rotation, centre = kabsch(points_T33.cpu().numpy(), self.points_cam.mT.cpu().numpy())
        return _whole(np.arange(len(rotation)), rotation, centre, points_T33.device)


def _chosen(measured: Tensor, indices: Tensor) -> Tensor:
    """Of measurements (D, N) or (H, D, N): those of indices (M,), or of (H, M) in (H, D, M)."""
    if indices.ndim == 1:
        return measured[..., indices]
    if measured.ndim == 2:
        return measured[:, indices].movedim(0, -2)
    return measured.gather(-1, indices.unsqueeze(-2).expand(-1, measured.shape[-2], -1))


def _whole(sample: NDArray[np.intp], rotation: Array, centre: Array, device: torch.device) -> Solutions:
    """The solutions that are numbers."""
    whole = np.isfinite(rotation).all(axis=(1, 2)) & np.isfinite(centre).all(axis=1)
    return Solutions(*(torch.from_numpy(part[whole]).to(device) for part in (sample, rotation, centre)))
