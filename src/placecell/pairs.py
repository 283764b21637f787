"""Which pictures are worth matching with which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from placecell.pose import Pose

Pair = tuple[int, int]


def exhaustive(count: int) -> list[Pair]:
    """Every pair of `count` pictures."""
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


def sequential(count: int, *, overlap: int, quadratic: bool = True) -> list[Pair]:
    """Each picture with the next `overlap`, and when `quadratic` with those 2^k after it for k < `overlap`."""
    steps = set(range(1, overlap + 1))
    if quadratic:
        steps |= {2**k for k in range(overlap)}
    return [(i, i + step) for i in range(count) for step in sorted(steps) if i + step < count]


def retrieved(vectors: NDArray[np.float32], *, count: int, min_gap: int = 0, reach: int = 0) -> list[Pair]:
    """Each picture with `count` of the most similar of (N, D) unit vectors; see `_spread` for `reach`.

    Pictures `min_gap` or fewer places apart in the order given are passed over.
    """
    similarity = vectors @ vectors.T
    order = np.arange(len(vectors))
    similarity[np.abs(order[:, None] - order[None, :]) <= min_gap] = -np.inf
    return _partners(-similarity, count, reach)


def posed(world_from_cam: Sequence[Pose], *, count: int, reach: int = 0, max_angle_deg: float = 60.0) -> list[Pair]:
    """Each picture with `count` of those nearest by that look within `max_angle_deg` of it; see `_spread`."""
    centres = np.array([pose.translation for pose in world_from_cam]).reshape(-1, 3)
    forward = np.array([pose.rotation[:, 2] for pose in world_from_cam]).reshape(-1, 3)
    distance = np.linalg.norm(centres[:, None] - centres[None, :], axis=-1)
    apart = np.arctan2(np.linalg.norm(np.cross(forward[:, None], forward[None, :]), axis=-1), forward @ forward.T)
    distance[apart > np.radians(max_angle_deg)] = np.inf
    np.fill_diagonal(distance, np.inf)
    return _partners(distance, count, reach)


def _spread(count: int, reach: int) -> NDArray[np.intp]:
    """Ranks to take: the first `count`, or as many in geometric steps from the first to the one at `reach`.

    In a video the nearest pictures are the frames just before and after, from almost the same place: points matched
    only among those have no depth. Wider steps among the ranks are wider baselines, whatever the unit of the scene.
    """
    if reach <= count:
        return np.arange(count)
    ranks = np.geomspace(1, reach + 1, count).astype(np.intp) - 1
    for place in range(1, count):
        ranks[place] = max(ranks[place], ranks[place - 1] + 1)
    return ranks


def _partners(cost: NDArray[np.floating], count: int, reach: int) -> list[Pair]:
    """Each row's columns of finite cost, at `_spread` ranks among them; fewer than `count` only if there are fewer."""
    pairs: list[Pair] = []
    for i, row in enumerate(cost):
        ranked = np.argsort(row, kind="stable")[: np.isfinite(row).sum()]
        ranks = _spread(min(count, len(ranked)), min(reach, len(ranked) - 1))
        pairs += [(i, int(j)) for j in ranked[ranks]]
    return unique(pairs)


def unique(pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs, smaller index first, sorted, each once."""
    return sorted({(min(pair), max(pair)) for pair in pairs})
