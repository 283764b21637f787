"""Which points are kept: against brute force, and that every picture gets its share, spread."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.families.structure.covering import cells_of, covering, restricted
from placecell.pose import Pose
from placecell.sift import Features
from placecell.triangulate import Tracks, View

Ints = NDArray[np.intp]


def worth(chosen: Ints, point: Ints, cells: Ints) -> float:
    """The sum that `covering` maximises, as its docstring says it."""
    kept = np.bincount(cells[np.isin(point, chosen)], minlength=cells.max() + 1)
    return float(sum((1.0 / np.arange(1, count + 1)).sum() for count in kept))


@st.composite
def observations(draw: st.DrawFn) -> tuple[Ints, Ints]:
    """Up to eight points, each seen somewhere; in any order."""
    seen = [draw(st.sets(st.integers(0, 6), min_size=1, max_size=5)) for _ in range(draw(st.integers(3, 8)))]
    pairs = draw(st.permutations([(index, cell) for index, cells in enumerate(seen) for cell in cells]))
    point, cells = np.array(pairs, np.intp).T
    return point, cells


class TestCovering:
    @given(observations())
    def test_each_step_takes_the_point_that_adds_most(self, seen: tuple[Ints, Ints]) -> None:
        point, cells = seen
        kept: set[int] = set()
        for count in range(1, point.max() + 2):
            more = set(covering(point, cells, count).tolist())
            assert len(more) == count and more > kept
            best = max(worth(np.array([*kept, index]), point, cells) for index in range(point.max() + 1))
            assert worth(np.array([*more]), point, cells) == pytest.approx(best)
            kept = more

    @given(observations(), st.integers(1, 3))
    def test_reaches_its_bound(self, seen: tuple[Ints, Ints], count: int) -> None:
        best = max(worth(np.array(some), *seen) for some in combinations(range(seen[0].max() + 1), count))
        assert worth(covering(*seen, count), *seen) >= (1 - 1 / np.e) * best - 1e-9

    def test_a_picture_that_few_points_see_gets_its_share(self) -> None:
        """Ninety points are seen by ten pictures each, five by one lonely picture: by number alone it got none."""
        rng = np.random.default_rng(0)
        point = np.concatenate([np.repeat(np.arange(90), 10), np.arange(90, 95)])
        cells = np.concatenate([np.tile(np.arange(10), 90), np.full(5, 10)])
        order = rng.permutation(len(point))
        chosen = covering(point[order], cells[order], 40)
        assert (chosen >= 90).sum() >= 2
        by_number = np.argsort(-np.bincount(point), kind="stable")[:40]
        assert (by_number >= 90).sum() == 0

    def test_more_than_there_are_is_all(self) -> None:
        np.testing.assert_array_equal(covering(np.array([0, 1, 2]), np.array([0, 0, 1]), 10), [0, 1, 2])


def test_cells_are_sixteenths_of_each_picture() -> None:
    camera = Camera.from_focal(640, 480, 500.0)
    pixels = np.array([[0.5, 0.5], [639.5, 0.5], [0.5, 479.5], [330.0, 250.0], [640.0, 480.0]], np.float32)
    none = np.zeros(5, np.float32)
    views = [
        View(name, camera, Pose.identity(), Features(pixels, none, none, np.zeros((5, 128), np.uint8)))
        for name in ("first", "second")
    ]
    tracks = Tracks(np.zeros((1, 3)), np.zeros(10, np.int32), np.repeat([1, 0], 5), np.tile(np.arange(5), 2))
    first = [0, 3, 12, 10, 15]
    np.testing.assert_array_equal(cells_of(tracks, views), [*(16 + cell for cell in first), *first])


def test_restricted_tracks_are_those_of_the_chosen() -> None:
    tracks = Tracks(
        np.arange(12.0).reshape(4, 3),
        np.array([3, 0, 2, 2, 1, 3], np.int32),
        np.array([0, 0, 1, 2, 2, 5], np.int32),
        np.array([7, 8, 9, 10, 11, 12], np.int32),
    )
    found = restricted(tracks, np.array([1, 3]))
    np.testing.assert_array_equal(found.points_world, tracks.points_world[[1, 3]])
    np.testing.assert_array_equal(found.point, [1, 0, 1])
    np.testing.assert_array_equal(found.picture, [0, 2, 5])
    np.testing.assert_array_equal(found.feature, [7, 11, 12])
