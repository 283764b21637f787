"""Modes of leaves: on mixtures whose parts are known."""

from __future__ import annotations

import numpy as np
import pytest

from placecell.families.coordinates.forest.leaves import Remembering, remember

HOW = Remembering(bandwidth=0.05, modes=3)
CENTRES = np.array([[1.0, 2.0, 0.5], [-1.0, 0.3, 0.2], [0.4, -2.0, 1.0]])


def mixture(counts: tuple[int, ...], seed: int = 0, sigma: float = 0.02) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = np.concatenate([c + sigma * rng.normal(size=(n, 3)) for c, n in zip(CENTRES, counts, strict=False)])
    return rng.permutation(points).astype(np.float32)


def test_a_mixture_is_found_with_its_shares_strongest_first() -> None:
    points = mixture((30, 60, 10))
    found = remember(points, np.array([0, 100]), HOW).modes(np.zeros(1, int), 3, HOW.bandwidth)
    assert np.linalg.norm(found.points[0] - CENTRES[[1, 0, 2]], axis=1).max() < 0.02
    np.testing.assert_allclose(found.weight[0], [0.6, 0.3, 0.1], atol=0.02)
    assert found.weight.sum() <= 1


def test_a_covariance_is_that_of_the_samples_about_the_mode() -> None:
    rng = np.random.default_rng(0)
    true = np.array([[4.0, 1.5, 0.0], [1.5, 3.0, -0.5], [0.0, -0.5, 1.0]]) * 1e-4
    points = rng.multivariate_normal([1.0, 2.0, 3.0], true, 500).astype(np.float32)
    found = remember(points, np.array([0, 500]), HOW).modes(np.zeros(1, int), 1, HOW.bandwidth)
    np.testing.assert_allclose(found.covariance[0, 0], np.cov(points.T) + 0.05**2 * np.eye(3), atol=3e-5)


def test_leaves_do_not_touch_each_other() -> None:
    sizes = (1, 3, 40, 7, 130, 2, 64)
    parts = [mixture(tuple(np.random.default_rng(k).multinomial(n, [0.5, 0.3, 0.2])), k) for k, n in enumerate(sizes)]
    border = np.cumsum([0, *sizes])
    together = remember(np.concatenate(parts), border, HOW, threads=2).modes(np.arange(7), 3, HOW.bandwidth)
    for leaf, part in enumerate(parts):
        alone = remember(part, np.array([0, len(part)]), HOW).modes(np.zeros(1, int), 3, HOW.bandwidth)
        np.testing.assert_array_equal(together.weight[leaf], alone.weight[0])
        there = alone.weight[0] > 0
        np.testing.assert_allclose(together.points[leaf][there], alone.points[0][there], atol=2e-4)


def test_one_sample_is_one_mode() -> None:
    found = remember(np.array([[3.0, -1.0, 2.0]], np.float32), np.array([0, 1]), HOW).modes(np.zeros(1, int), 3, 0.05)
    assert found.weight.tolist() == [[1.0, 0.0, 0.0]]
    np.testing.assert_array_equal(found.points[0, 0], [3.0, -1.0, 2.0])
    np.testing.assert_allclose(found.covariance[0, 0], 0.05**2 * np.eye(3), rtol=1e-6)


def test_no_leaf_is_without_a_mode() -> None:
    scattered = np.random.default_rng(0).uniform(-50, 50, (600, 3)).astype(np.float32)
    found = remember(scattered, np.array([0, 600]), HOW).modes(np.zeros(1, int), 3, HOW.bandwidth)
    assert found.weight[0].tolist() == pytest.approx([1 / 255, 0, 0])


def test_only_the_strongest_are_given_when_fewer_are_asked_for() -> None:
    leaves = remember(mixture((30, 60, 10)), np.array([0, 100]), HOW)
    one, three = (leaves.modes(np.zeros(1, int), count, HOW.bandwidth) for count in (1, 3))
    np.testing.assert_array_equal(one.points[0], three.points[0, :1])
    np.testing.assert_array_equal(one.weight[0], three.weight[0, :1])


def test_large_leaves_are_summed_up_by_some_of_their_samples() -> None:
    points = mixture((3000, 6000, 1000))
    found = remember(points, np.array([0, 10_000]), HOW).modes(np.zeros(1, int), 3, HOW.bandwidth)
    assert np.linalg.norm(found.points[0] - CENTRES[[1, 0, 2]], axis=1).max() < 0.02
    np.testing.assert_allclose(found.weight[0], [0.6, 0.3, 0.1], atol=0.05)


@pytest.mark.parametrize("offset", [0.0, 40.0])
def test_places_are_kept_to_a_fraction_of_a_millimetre(offset: float) -> None:
    points = (mixture((5, 5, 5), sigma=0.0) + np.float32(offset)).astype(np.float32)
    leaves = remember(points, np.array([0, 15]), HOW)
    found = leaves.modes(np.zeros(1, int), 3, HOW.bandwidth)
    off = np.linalg.norm(found.points[0][:, None] - (CENTRES + offset), axis=-1).min(axis=0)
    assert off.max() < 2e-4 and leaves.place.dtype == np.uint16
