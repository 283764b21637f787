"""Poses as a network learns them: in the frame of the anchor, centres about zero and rotations about identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from placecell.pose import Array, Pose, mean_pose

Floats = NDArray[np.float32]

_LEAST_SCALE = 1e-6
_FRACTION_BITS = 22
"""Labels are kept in steps of 2^-22 of their size, four times coarser than float32 at worst. Rounding noise of another
world frame then almost never changes a bit of them, so moving the world moves every answer and changes no training."""


@dataclass(frozen=True)
class Anchor:
    """The frame a network answers in: `world_from_anchor` is the mean pose of the training frames."""

    world_from_anchor: Pose
    scale: float
    """RMS distance of the training centres from the anchor, scene units; 1 where they all lie in one place."""

    @classmethod
    def of(cls, world_from_cam: Sequence[Pose]) -> Self:
        """The anchor of some training poses; rotations without a mean lend that of the first frame."""
        try:
            mean = mean_pose(world_from_cam)
        except ValueError:
            centre = np.mean([pose.translation for pose in world_from_cam], axis=0)
            mean = Pose(world_from_cam[0].rotation, centre)
        away = np.array([pose.translation for pose in world_from_cam]) - mean.translation
        scale = float(np.sqrt((away**2).sum(axis=1).mean()))
        return cls(mean, 1.0 if scale < _LEAST_SCALE else float(f"{scale:.6g}"))

    def to_json(self) -> dict[str, Any]:
        """As map.json keeps it, among what a family needs to load."""
        return {"world_from_anchor": self.world_from_anchor.matrix[:3].tolist(), "scale": self.scale}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: it is not there, or is none.
        """
        return cls(Pose.from_matrix(row["world_from_anchor"]), float(row["scale"]))

    def labels(self, world_from_cam: Sequence[Pose]) -> Labels:
        """Poses in the frame of the anchor."""
        anchor_from_world = self.world_from_anchor.inv
        poses = [anchor_from_world @ pose for pose in world_from_cam]
        step = 2.0**-_FRACTION_BITS
        rotations = np.array([pose.rotation for pose in poses]).reshape(-1, 3, 3)
        centres = np.array([pose.translation for pose in poses]).reshape(-1, 3)
        return Labels(self._rounded(centres), (np.round(rotations / step) * step).astype(np.float32))

    def points(self, points_world: Array) -> Floats:
        """(N, 3) points in the frame of the anchor."""
        return self._rounded(self.world_from_anchor.inv.apply(points_world))

    def _rounded(self, lengths: Array) -> Floats:
        step = 2.0 ** (np.floor(np.log2(self.scale)) - _FRACTION_BITS)
        rounded: Floats = (np.round(lengths / step) * step).astype(np.float32)
        return rounded


@dataclass(frozen=True, eq=False)
class Labels:
    """N poses `anchor_from_cam`."""

    centres: Floats
    """(N, 3) scene units."""
    rotations: Floats
    """(N, 3, 3)."""
