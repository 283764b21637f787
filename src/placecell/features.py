"""The SIFT features of a scene's frames."""

from __future__ import annotations

from collections.abc import Sequence

from placecell.images import load_query
from placecell.log import Log
from placecell.scene import Frame, Scene
from placecell.sift import Features, Sift, in_parallel


def scene_features(scene: Scene, frames: Sequence[Frame], sift: Sift, log: Log, *, threads: int = 2) -> list[Features]:
    """Features of each frame, in order.

    Raises:
        ImageError: a picture cannot be read, or does not fit its camera.
    """

    def detect(frame: Frame) -> Features:
        return sift.detect(load_query(scene, frame).image)

    return list(log.track(in_parallel(detect, frames, threads), "detecting features", len(frames)))
