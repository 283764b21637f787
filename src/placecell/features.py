"""The SIFT features of a scene's frames."""

from __future__ import annotations

from collections.abc import Sequence

from placecell.images import load_query
from placecell.log import Log
from placecell.parallel import in_parallel
from placecell.scene import Frame, Scene
from placecell.sift import Features, Sift


def scene_features(scene: Scene, frames: Sequence[Frame], sift: Sift, log: Log, *, threads: int = 2) -> list[Features]:
    """Features of each frame, in order.

    Raises:
        ImageError: a picture cannot be read, or does not fit its camera.
    """

    def detect(frame: Frame) -> Features:
        return sift.detect(load_query(scene, frame).image)

    features = list(log.track(in_parallel(detect, frames, threads), "detecting features", len(frames)))
    blind = [frame.name for frame, found in zip(frames, features, strict=True) if not len(found)]
    if blind and len(blind) < len(frames):
        log.warn(f"{len(blind)} of {len(frames)} pictures are dark, blurred or tiny and add nothing: {blind[0]}, …")
    return features
