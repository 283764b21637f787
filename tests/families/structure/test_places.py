"""Points, covariances and sightings as a map keeps them: how much is lost, and what they cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from placecell.families.structure.places import Places, gaps, lists
from placecell.pose import Array


def points(count: int, *, at: float = 0.0, size: float = 5.0) -> Array:
    return at + size * np.random.default_rng(0).random((count, 3))


def covariances(count: int) -> Array:
    """Long along a random direction, down to a hundredth of that across it."""
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(count, 3, 3)))[0]
    sigmas = 10.0 ** rng.uniform(-4, -2, (count, 3)) * rng.uniform(0.1, 10, (count, 1))
    found: Array = (axes * sigmas[:, None] ** 2) @ axes.transpose(0, 2, 1)
    return found


class TestPoints:
    @pytest.mark.parametrize("count", [1, 2, 256, 257, 1000])
    @pytest.mark.parametrize("at, size", [(0.0, 5.0), (-4e6, 300.0), (1.0, 1e-3)])
    def test_are_kept_to_the_extent_of_their_block_by_two_to_the_17(self, count: int, at: float, size: float) -> None:
        truth = points(count, at=at, size=size)
        kept = Places.of(truth, covariances(count)).points_world
        for begin in range(0, count, 256):
            block = slice(begin, begin + 256)
            extent = np.ptp(truth[block], axis=0)
            assert (np.abs(kept[block] - truth[block]) <= extent / 2**17 * 1.01 + 1e-9).all()

    def test_one_far_away_costs_its_own_block_only(self) -> None:
        truth = points(1000)
        truth[300] = 1e5
        apart = np.abs(Places.of(truth, covariances(1000)).points_world - truth)
        assert apart[:256].max() < 1e-4 and apart[512:].max() < 1e-4
        assert 0.01 < apart[256:512].max() < 1.0

    def test_all_in_one_place_are_there(self) -> None:
        truth = np.full((5, 3), 2.5)
        np.testing.assert_array_equal(Places.of(truth, covariances(5)).points_world, truth)


class TestCovariance:
    def test_is_kept_to_half_precision(self) -> None:
        """Also across the long direction: the factor is rounded, not the matrix."""
        truth = covariances(500)
        kept = Places.of(points(500), truth).covariance(np.arange(500))
        np.testing.assert_allclose(np.linalg.eigvalsh(kept)[:, 2], np.linalg.eigvalsh(truth)[:, 2], rtol=3e-3)
        sizes = np.trace(truth, axis1=1, axis2=2)[:, None, None]
        assert (np.abs(kept - truth) / sizes).max() < 2e-3
        assert np.linalg.eigvalsh(kept)[:, 0].min() > 0

    @pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
    def test_is_right_in_any_unit(self, unit: float) -> None:
        truth = covariances(50)
        kept = Places.of(points(50) * unit, truth * unit**2).covariance(np.arange(50)) / unit**2
        np.testing.assert_allclose(kept, Places.of(points(50), truth).covariance(np.arange(50)), rtol=1e-2, atol=1e-9)

    @pytest.mark.parametrize("flat", [np.zeros((3, 3)), np.diag([1.0, 0.0, 0.0]), np.diag([4.0, 1.0, 0.0])])
    def test_that_is_flat_stays_usable(self, flat: Array) -> None:
        """A point seen from one place twice has no depth; its covariance is not invertible."""
        kept = Places.of(points(1), flat[None]).covariance(np.array([0]))[0]
        np.testing.assert_allclose(kept, flat, atol=2e-3 * max(flat.max(), 1e-6))
        assert np.isfinite(kept).all()

    def test_of_some_is_some_of_all(self) -> None:
        places = Places.of(points(20), covariances(20))
        np.testing.assert_array_equal(places.covariance(np.array([7, 3])), places.covariance(np.arange(20))[[7, 3]])


def test_22_bytes_a_point_and_a_little_a_block() -> None:
    places = Places.of(points(2560), covariances(2560))
    assert sum(part.nbytes for part in places.tensors().values()) == 2560 * 22 + 10 * 48


def test_tensors_bring_them_back_to_the_bit() -> None:
    places = Places.of(points(300), covariances(300))
    again = Places.from_tensors(places.tensors())
    np.testing.assert_array_equal(again.points_world, places.points_world)
    np.testing.assert_array_equal(again.covariance(np.arange(300)), places.covariance(np.arange(300)))


RISING = st.lists(st.integers(0, 3000), max_size=30).map(sorted)


class TestGaps:
    @given(st.lists(RISING, max_size=8))
    def test_lists_come_back(self, rising: list[list[int]]) -> None:
        values = np.array([value for part in rising for value in part], np.int32)
        starts = np.cumsum([0, *map(len, rising)]).astype(np.int32)
        np.testing.assert_array_equal(lists(gaps(values, starts), starts), values)

    @pytest.mark.parametrize("value, steps", [(0, [0]), (254, [254]), (255, [255, 0]), (511, [255, 255, 1])])
    def test_a_byte_a_step_and_more_for_far_ones(self, value: int, steps: list[int]) -> None:
        found: NDArray[np.uint8] = gaps(np.array([value], np.int32), np.array([0, 1], np.int32))
        assert found.tolist() == steps

    def test_empty_pictures_stand_anywhere(self) -> None:
        values, starts = np.array([5, 9, 700, 2], np.int32), np.array([0, 0, 3, 3, 4, 4], np.int32)
        np.testing.assert_array_equal(lists(gaps(values, starts), starts), values)
