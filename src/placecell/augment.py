"""More training pictures than were taken, with labels that stay true: the camera turned, other light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from placecell.camera import Camera
from placecell.pose import Array
from placecell.resample import resample


class Varied(NamedTuple):
    """A varied picture, and what became of its camera."""

    image: NDArray[np.uint8]
    """(h, w, 3) RGB."""
    camera: Camera
    """Its intrinsics."""
    cam_from_varied: Array
    """(3, 3): `world_from_varied = world_from_cam @ cam_from_varied`; the centre stays."""


@dataclass(frozen=True)
class Augmentation:
    """How far training pictures are varied.

    A camera turned about its centre sees the homography K' R K⁻¹ of its picture, without any parallax: a true new view
    with a true new label, except where it looks past the old picture's border. There the border is repeated or a random
    colour fills in, at even chances, so that neither becomes a sign of anything.
    """

    turn_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Largest turn up and down, left and right, and about the line of sight."""
    colour: float = 0.0
    """Spread of brightness and contrast, natural logarithm; half of it for each colour. A fifth is blurred as well."""

    def vary(self, image: NDArray[np.uint8], camera: Camera, target: Camera, rng: np.random.Generator) -> Varied:
        """The picture as `target` might have seen it."""
        turn = np.radians(self.turn_deg) * rng.uniform(-1.0, 1.0, 3)
        fill = rng.integers(0, 256, 3) if rng.random() < 0.5 else None
        if turn.any():
            cam_from_varied = Rotation.from_rotvec(turn).as_matrix()
            seen = resample(image, camera, target, target_from_cam=cam_from_varied.T, fill=fill)
        else:
            cam_from_varied, seen = np.eye(3), resample(image, camera, target)
        return Varied(self._lit(seen, rng), target, cam_from_varied)

    def _lit(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Other exposure, contrast, white balance, sharpness."""
        if self.colour == 0:
            return image
        exposure, contrast = np.exp(rng.normal(0.0, self.colour / 2, 2))
        balance = np.exp(rng.normal(0.0, self.colour / 4, 3))
        grey = float(image.mean())
        # One affine map a channel, so a table of 256 entries does it.
        values = (np.arange(256.0)[:, None] - grey) * contrast + grey
        table = np.clip(values * (exposure * balance), 0, 255).astype(np.uint8)
        lit = np.asarray(cv2.LUT(image, table[None]), dtype=np.uint8)
        if rng.random() < 0.2:
            return np.asarray(cv2.GaussianBlur(lit, (0, 0), rng.uniform(0.5, 1.5)), dtype=np.uint8)
        return lit


def crop(image: NDArray[np.uint8], camera: Camera, side: int, rng: np.random.Generator | None) -> Varied:
    """A square window of a picture, anywhere, or in the middle without `rng`: the papers' crops.

    The label stays (the camera does not move); the camera's principal point moves with the window.
    """
    room_x, room_y = camera.width - side, camera.height - side
    if rng is None:
        left, top = room_x // 2, room_y // 2
    else:
        left, top = int(rng.integers(room_x + 1)), int(rng.integers(room_y + 1))
    window = image[top : top + side, left : left + side]
    return Varied(window, camera.cropped(left, top, side, side), np.eye(3))
