"""Which points of a map are worth keeping: those that leave every training picture enough of them, well spread."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from placecell.triangulate import Tracks, View

_GRID = 4


def cells_of(tracks: Tracks, views: Sequence[View]) -> NDArray[np.intp]:
    """(M,) in which of the 16 equal parts of its picture each observation lies, numbered over all pictures."""
    cells = np.zeros(len(tracks.picture), np.intp)
    for index, view in enumerate(views):
        mine = np.flatnonzero(tracks.picture == index)
        share = view.features.pixels[tracks.feature[mine]] / (view.camera.width, view.camera.height)
        column, row = (share * _GRID).astype(np.intp).clip(0, _GRID - 1).T
        cells[mine] = (index * _GRID + row) * _GRID + column
    return cells


def covering(point: NDArray[np.integer], cells: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """The `count` points, ascending, that cover the cells best.

    Li, Snavely and Huttenlocher 2010 keep a smallest set of points of which every picture sees K; the heavier a point
    is seen, the sooner it is taken. Given how many points there may be instead of K, our reading is to maximise
    Σ_c (1 + 1/2 + … + 1/n_c), n_c the number of kept points in cell c, a part of a picture: every picture gets its
    share, no picture is ever done, and the points of one picture lie apart, which is what holds a pose. The sum is
    submodular, so taking the point that adds most, again and again, reaches 63 % of the best or more (Nemhauser
    1978); a gain only ever falls, so most need not be computed anew (Minoux 1978).

    Args:
        point: (M,) index of the point of each observation; every point has one.
        cells: (M,) where it was seen, as `cells_of` tells.
    """
    order = np.argsort(point, kind="stable")
    seen_in, starts = cells[order], np.searchsorted(point[order], np.arange(point.max() + 2)).tolist()
    kept_in = np.ones(cells.max() + 1)  # and one, so that the next point adds its inverse
    heap = [(starts[index] - starts[index + 1], index) for index in range(len(starts) - 1)]
    heapq.heapify(heap)
    chosen: list[int] = []
    while len(chosen) < count and heap:
        _, index = heap[0]
        mine = seen_in[starts[index] : starts[index + 1]]
        gain = float((1.0 / kept_in[mine]).sum())
        heapq.heapreplace(heap, (-gain, index))
        if heap[0][1] == index:
            heapq.heappop(heap)
            np.add.at(kept_in, mine, 1.0)
            chosen.append(index)
    return np.sort(np.array(chosen, np.intp))


def restricted(tracks: Tracks, chosen: NDArray[np.intp]) -> Tracks:
    """The tracks of some of the points, numbered anew in their order."""
    renumbered = np.full(len(tracks.points_world), -1, np.int32)
    renumbered[chosen] = np.arange(len(chosen), dtype=np.int32)
    kept = renumbered[tracks.point] >= 0
    return Tracks(
        tracks.points_world[chosen], renumbered[tracks.point[kept]], tracks.picture[kept], tracks.feature[kept]
    )
