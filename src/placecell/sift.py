"""SIFT features, and their matching by descriptor alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from placecell import atomic

T = TypeVar("T")

UNIT = 512.0
"""A descriptor stored as uint8 is the unit-length RootSIFT vector times this."""
_ROUNDING = 1e-6
"""Cosines of float32 are this exact: of two equal descriptors neither is nearer."""


@dataclass(frozen=True, eq=False)
class Features:
    """N local features of one picture, strongest first."""

    pixels: NDArray[np.float32]
    """(N, 2) px, (0.5, 0.5) = centre of the top-left pixel."""
    scales_px: NDArray[np.float32]
    """(N,) sigma of the blob."""
    angles_rad: NDArray[np.float32]
    """(N,) orientation."""
    descriptors: NDArray[np.uint8]
    """(N, 128) RootSIFT * UNIT."""

    def __len__(self) -> int:
        return len(self.pixels)

    def strongest(self, count: int) -> Features:
        """The first `count` of them."""
        some = slice(count)
        return Features(self.pixels[some], self.scales_px[some], self.angles_rad[some], self.descriptors[some])


@dataclass(frozen=True)
class Sift:
    """The settings of the detector. Frozen; part of the families' configuration.

    `contrast` is Lowe's peak threshold over the whole octave as OpenCV counts it (0.02 is COLMAP's 0.0067 a layer).
    """

    count: int = 2048
    """At most so many features a picture, the strongest kept."""
    contrast: float = 0.0133

    def detect(self, image: NDArray[np.uint8]) -> Features:
        """Features of a (H, W, 3) RGB or (H, W) grey picture; RootSIFT as in Arandjelovic and Zisserman 2012.

        The octave pyramid begins at the doubled picture, with the subpixel shift of the doubling corrected.
        """
        grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        detector = cv2.SIFT.create(nfeatures=self.count, contrastThreshold=self.contrast, enable_precise_upscale=True)
        keypoints, descriptors = detector.detectAndCompute(grey, None)
        if descriptors is None or len(keypoints) == 0:
            none = np.zeros(0, np.float32)
            return Features(np.zeros((0, 2), np.float32), none, none, np.zeros((0, 128), np.uint8))
        # OpenCV may return a few more than asked for, and counts pixel centres from (0, 0).
        order = np.argsort([-point.response for point in keypoints], kind="stable")[: self.count]
        pixels = np.array([keypoints[i].pt for i in order], np.float32) + np.float32(0.5)
        scales = np.array([keypoints[i].size / 2 for i in order], np.float32)
        angles = np.deg2rad(np.array([keypoints[i].angle for i in order], np.float32)).astype(np.float32)
        return Features(pixels, scales, angles, _root(descriptors[order]))


def _root(descriptors: NDArray[Any]) -> NDArray[np.uint8]:
    total = np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-12)
    stored: NDArray[np.uint8] = np.minimum(np.sqrt(descriptors / total) * UNIT + 0.5, 255).astype(np.uint8)
    return stored


def save_features(features: Features, path: Path) -> None:
    """Write the features of one picture, whole or not at all."""
    atomic.write_bytes(path, save(dict(vars(features))))


def load_features(path: Path) -> Features:
    """Inverse of `save_features`."""
    return Features(**load_file(path))


class Matches(NamedTuple):
    """Correspondences between two sets of descriptors."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    similarity: NDArray[np.float32]
    """Cosine, 0 to 1."""


def match(
    first: NDArray[np.float32], second: NDArray[np.float32], *, ratio: float = 0.8, mutual: bool = True
) -> Matches:
    """Nearest neighbours of (N, 128) among (M, 128) unit descriptors that pass Lowe's ratio test.

    The ratio is of Euclidean distances, best over second best. With `mutual` no descriptor is used twice. Descriptors
    as `as_unit` gives them.
    """
    if len(first) == 0 or len(second) < 2:
        none = np.zeros(0, np.intp)
        return Matches(none, none, np.zeros(0, np.float32))
    best, top, runner_up = _two_nearest(first, second)
    kept = (1.0 - top) + _ROUNDING < ratio**2 * (1.0 - runner_up)
    if mutual:
        # Each of the second set keeps its most similar suitor; the ratio test has already left few of them.
        order = np.argsort(-top, kind="stable")
        order = order[kept[order]]
        winners = order[np.unique(best[order], return_index=True)[1]]
        kept = np.zeros(len(first), dtype=bool)
        kept[winners] = True
    rows = np.flatnonzero(kept)
    return Matches(rows, best[rows], top[rows])


def _two_nearest(
    first: NDArray[np.float32], second: NDArray[np.float32]
) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32]]:
    """Index and cosine of the nearest, and cosine of the second nearest; in blocks that stay in the cache."""
    best, top = np.empty(len(first), np.intp), np.empty(len(first), np.float32)
    runner_up, columns = np.empty(len(first), np.float32), np.ascontiguousarray(second.T)
    for begin in range(0, len(first), 128):
        part = slice(begin, begin + 128)
        similarity = first[part] @ columns
        rows = np.arange(len(similarity))
        best[part] = similarity.argmax(axis=1)
        top[part] = similarity[rows, best[part]]
        similarity[rows, best[part]] = -1.0
        runner_up[part] = similarity.max(axis=1)
    return best, top, runner_up


def as_unit(descriptors: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Stored descriptors (N, 128) as float32 rows of length one."""
    values = descriptors.astype(np.float32)
    norms = np.sqrt(np.einsum("nd,nd->n", values, values))[:, None]
    unit: NDArray[np.float32] = values / np.maximum(norms, 1e-6)
    return unit
