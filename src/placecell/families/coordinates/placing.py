"""From what a map says of the cells of a picture to its pose, or to a reason. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from placecell.anchor import Anchor
from placecell.camera import Camera
from placecell.estimate import Estimate, Query
from placecell.families.coordinates.cells import asked_cells, camera_seen, cell_pixels
from placecell.families.coordinates.config import Coordinates
from placecell.images import LEAST_DETAIL, detail
from placecell.pnp import PnP, solve_pnp
from placecell.pose import Array
from placecell.resample import resample

_LEAST_NOISE_PX = 1.0
"""No cell is surer than that, whatever the head says."""
_SAMPLED = 400
"""Cells that RANSAC sees; all that were asked refine its pose."""


class Seen(NamedTuple):
    """What a map says of the cells of a picture, the surest first."""

    pixels: Array
    """(N, 2) of `camera`."""
    points_anchor: Array
    """(N, 3)."""
    spread_px: Array
    """(N,) how far off their projections are expected to be."""
    camera: Camera


Look = Callable[[NDArray[np.uint8], Camera], Iterable[Seen]]
"""A picture and its camera to what each head that is asked says of it."""


class Sight(NamedTuple):
    """How a map looks at pictures."""

    usual: Camera
    """Of the training pictures as the encoder saw them."""
    anchor: Anchor
    whole: int
    """Sides of pictures are multiples of so many pixels."""
    look: Look


def answer(query: Query, family: Coordinates, sight: Sight) -> Estimate:
    """Where a picture was taken; one of which too few cells agree is refused with their number."""
    start = time.perf_counter()
    found = _placed(query, family, sight)
    seconds = time.perf_counter() - start
    if isinstance(found, str):
        return Estimate.refusal(query.name, found, seconds)
    if found.world_from_cam is None or found.count < family.least:
        reason = f"{found.count} coordinates agree on a pose, {family.least} needed"
        return Estimate.refusal(query.name, reason, seconds)
    pose = sight.anchor.world_from_anchor @ found.world_from_cam
    matches = len(found.inliers)
    return Estimate(query.name, pose, found.covariance, inliers=found.count, matches=matches, seconds=seconds)


def _placed(query: Query, family: Coordinates, sight: Sight) -> PnP | str:
    """What most cells of a picture agree on, or why they are not asked."""
    if query.defect is not None:
        return query.defect
    camera = camera_seen(query.camera, sight.usual, whole=sight.whole)
    image = resample(query.image, query.camera, camera)
    if (shown := detail(image)) < LEAST_DETAIL:
        needed = f"(detail {shown:.2f}, {LEAST_DETAIL} needed)"
        return f"hardly anything is in the picture {needed}; it is dark, blurred or of a bare wall"
    if (count := len(asked_cells(camera))) < family.least:
        return f"{count} cells of the picture are asked as this map sees it, {family.least} needed"
    seen = list(sight.look(image, camera))
    if not all(np.isfinite(by_one.points_anchor).all() for by_one in seen):
        return "the network answers with numbers that are none; train it again with a lower learning rate"
    return max((_solved(by_one, family) for by_one in seen), key=lambda found: found.count)


def _solved(seen: Seen, family: Coordinates) -> PnP:
    noise_px = np.maximum(seen.spread_px, _LEAST_NOISE_PX)
    return solve_pnp(
        seen.points_anchor,
        seen.pixels,
        seen.camera,
        max_error_px=family.max_error_px,
        noise_px=noise_px,
        sampled=_SAMPLED,
        runs=family.runs,
    )


def surest(points_anchor: Array, log_spread: Array, camera: Camera, queried: int) -> Seen:
    """The `queried` cells of a picture that the head is surest of, of (N, 3) points and (N,) log spreads of all that
    were asked."""
    order = np.argsort(log_spread, kind="stable")[:queried]
    pixels = cell_pixels(camera)[asked_cells(camera)[order]]
    return Seen(pixels, points_anchor[order], np.exp(log_spread[order]), camera)
