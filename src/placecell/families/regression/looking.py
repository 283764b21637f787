"""What a regression network is shown of a picture, and its answers as one. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from placecell.anchor import Anchor
from placecell.camera import Camera
from placecell.estimate import Estimate, Query
from placecell.families.regression.dense import Window
from placecell.families.regression.spreads import Spread, spread
from placecell.images import detail
from placecell.pose import Array, Pose
from placecell.resample import resample

NO_NUMBERS = "the network answers with numbers that are none; train it again with a lower learning rate"
"""Why a network that was trained to NaN has no answer."""
_OPPOSITE = "the windows of the picture look opposite ways, so they have no mean"
"""Why a picture whose windows disagree wholly has no answer."""
_FAR_BELOW = 0.2
"""A picture with less than this share of the detail of the poorest training picture is like none of them."""


def shown(query: Query, canonical: Camera, least_detail: float, looks: Sequence[Window]) -> NDArray[np.uint8] | str:
    """(B, h, w, 3) the windows of a picture as the canonical camera sees it, or why it is not looked at.

    Args:
        least_detail: `images.detail` of the poorest training picture.
    """
    if query.defect is not None:
        return query.defect
    image = resample(query.image, query.camera, canonical)
    found, least = detail(image), _FAR_BELOW * least_detail
    if found < least:
        return f"hardly anything is in the picture (detail {found:.2f}, {least:.2f} needed); it is dark or blurred"
    return np.concatenate([look.cut(image[None]) for look in looks])


def agreed(poses: Sequence[Sequence[Pose]], expected: Array | None) -> Spread | str:
    """What all looks at a picture say together, or why they say nothing; see `spread`."""
    return spread(poses, expected) or _OPPOSITE


def answer(name: str, found: Spread | str, anchor: Anchor, start: float) -> Estimate:
    """The answer to a picture, or why there is none; `start` is when the work began."""
    if isinstance(found, str):
        return Estimate.refusal(name, found, time.perf_counter() - start)
    pose = anchor.world_from_anchor @ found.mean
    return Estimate(name, pose, found.total, seconds=time.perf_counter() - start)
