"""Short codes: how near they are, what their products with a query estimate, and what they cost."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from placecell.families.structure.codes import Codes
from placecell.sift import UNIT, as_unit

SIZES = [8, 16, 32, 64]


def descriptors(count: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Like RootSIFT: positive, of length one times UNIT, each near one of forty kinds."""
    kinds = np.random.default_rng(0).gamma(0.4, 1.0, (40, 128))
    rng = np.random.default_rng(seed)
    mixed = np.sqrt(kinds[rng.integers(0, 40, count)] + 0.3 * rng.gamma(0.4, 1.0, (count, 128)))
    unit = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    stored: NDArray[np.uint8] = (unit * UNIT + 0.5).clip(0, 255).astype(np.uint8)
    return stored


def error(codes: Codes, truth: NDArray[np.uint8]) -> float:
    """Mean squared distance to the unit descriptors."""
    apart = codes.vectors(np.arange(len(truth))) - as_unit(truth)
    return float((apart**2).sum(axis=1).mean())


def test_whole_descriptors_are_their_own_codes() -> None:
    stored = descriptors(50)
    codes = Codes.train(stored, 128, seed=0)
    np.testing.assert_array_equal(codes.vectors(np.array([7, 3])), as_unit(stored[[7, 3]]))


@pytest.mark.parametrize("size", SIZES)
def test_a_code_takes_its_bytes_and_the_centroids_at_most_32_kilobytes(size: int) -> None:
    codes = Codes.train(descriptors(600), size, seed=0)
    assert codes.code.nbytes == 600 * size
    assert sum(part.nbytes for part in codes.tensors().values()) <= 600 * size + 256 * 128


def test_longer_codes_are_nearer() -> None:
    stored = descriptors(2000)
    errors = [error(Codes.train(stored, size, seed=0), stored) for size in SIZES]
    assert errors == sorted(errors, reverse=True) and errors[0] > 4 * errors[-1]
    # Against no code at all: every descriptor by the mean of all.
    unit = as_unit(stored)
    assert errors[0] < 0.5 * ((unit - unit.mean(axis=0)) ** 2).sum(axis=1).mean()


@pytest.mark.parametrize("size", SIZES)
def test_every_part_takes_its_nearest_centroid(size: int) -> None:
    stored = descriptors(300)
    codes = Codes.train(stored, size, seed=0)
    parts = (as_unit(stored) * np.float32(UNIT)).reshape(300, size, -1)
    books = codes.books.astype(np.float32)
    taken = ((parts - books[np.arange(size), codes.code]) ** 2).sum(axis=2)
    nearest = ((parts[:, :, None] - books[None]) ** 2).sum(axis=3).min(axis=2)
    np.testing.assert_allclose(taken, nearest, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("size", [8, 16])
def test_the_product_with_a_query_is_its_cosine_on_average(size: int) -> None:
    """Of queries unlike those of the map too; vectors scaled to length one would say too much."""
    stored, asked = descriptors(3000), as_unit(descriptors(200, seed=1))
    codes = Codes.train(stored, size, seed=0)
    found = asked @ codes.vectors(np.arange(3000)).T
    truth = asked @ as_unit(stored).T
    assert abs((found - truth).mean()) < 0.002
    lengths = np.linalg.norm(codes.vectors(np.arange(3000)), axis=1)
    assert abs((found / lengths - truth).mean()) > 0.005


@pytest.mark.parametrize("count", [1, 2, 100])
def test_few_descriptors_are_coded_without_loss_but_rounding(count: int) -> None:
    stored = descriptors(count)
    assert error(Codes.train(stored, 16, seed=0), stored) < 1e-4


def test_the_same_seed_makes_the_same_codes() -> None:
    stored = descriptors(500)
    first, second, other = (Codes.train(stored, 16, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.code, second.code)
    np.testing.assert_array_equal(first.books, second.books)
    assert not np.array_equal(first.books, other.books)


def test_tensors_bring_them_back() -> None:
    codes = Codes.train(descriptors(300), 32, seed=0)
    again = Codes.from_tensors(codes.tensors())
    assert len(again) == 300
    np.testing.assert_array_equal(again.vectors(np.arange(300)), codes.vectors(np.arange(300)))
