"""Nearness to training pictures, in a unit that holds for any map."""

from __future__ import annotations

import numpy as np
import pytest

from placecell.calibration.features import Vectors, neighbourhood


def cloud(count: int, seed: int = 0) -> Vectors:
    return np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)


def test_is_the_distance_to_the_third_nearest() -> None:
    known = cloud(60)
    found = neighbourhood(known, np.arange(60))
    assert found is not None
    asked = cloud(5, seed=1)
    third = np.sort(np.linalg.norm(known[None] - asked[:, None], axis=2), axis=1)[:, 2]
    np.testing.assert_allclose(found.nearness(asked), -np.log(third / found.usual), rtol=1e-5)


def test_neighbours_of_one_sequence_do_not_make_the_unit() -> None:
    """A video walked slowly: frames of one sequence are near each other, sequences are not."""
    places = 10 * cloud(4, seed=2)
    walked = np.concatenate([place + 0.01 * cloud(20, seed=i) for i, place in enumerate(places)]).astype(np.float32)
    found = neighbourhood(walked, np.repeat(np.arange(4), 20))
    assert found is not None and found.usual > 5
    single = neighbourhood(walked[:20], np.zeros(20, int))
    assert single is not None and single.usual < 0.2


def test_the_unit_makes_maps_comparable() -> None:
    known, asked = cloud(80), cloud(6, seed=3)
    one, large = neighbourhood(known, np.arange(80)), neighbourhood(100 * known, np.arange(80))
    assert one is not None and large is not None
    np.testing.assert_allclose(large.nearness(100 * asked), one.nearness(asked), rtol=1e-4)


def test_a_blind_picture_is_nowhere_and_blind_training_pictures_are_left_out() -> None:
    known = np.vstack([cloud(20), np.full((2, 8), np.nan, np.float32)])
    found = neighbourhood(known, np.arange(22))
    assert found is not None and len(found.vectors) == 20
    near = found.nearness(np.vstack([cloud(1), np.full((1, 8), np.nan, np.float32)]))
    assert np.isfinite(near[0]) and np.isnan(near[1])


@pytest.mark.parametrize("vectors", [cloud(3), np.zeros((30, 8), np.float32), np.full((9, 8), np.nan, np.float32)])
def test_pictures_that_tell_nothing_apart_make_none(vectors: Vectors) -> None:
    assert neighbourhood(vectors, np.arange(len(vectors))) is None
