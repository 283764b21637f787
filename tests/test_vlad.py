"""VLAD: what a picture's vector must and must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from placecell.sift import as_unit
from placecell.vlad import Vlad

Descriptors = NDArray[np.uint8]


def pictures(count: int, size: int = 120, seed: int = 0) -> list[Descriptors]:
    """Each picture has its own mixture of thirty clusters of descriptors."""
    rng = np.random.default_rng(seed)
    clusters = rng.integers(0, 110, (30, 128))
    found = []
    for _ in range(count):
        mixture = rng.dirichlet(np.full(30, 0.3))
        noisy = clusters[rng.choice(30, size, p=mixture)] + rng.integers(-15, 15, (size, 128))
        found.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return found


@pytest.fixture(scope="module")
def scene() -> list[Descriptors]:
    return pictures(25)


@pytest.fixture(scope="module")
def vlad(scene: list[Descriptors]) -> Vlad:
    return Vlad.train(scene, words=16, dimensions=20, seed=0)


def test_a_picture_is_its_own_nearest(vlad: Vlad, scene: list[Descriptors]) -> None:
    vectors = np.stack([vlad.describe(block) for block in scene])
    np.testing.assert_array_equal((vectors @ vectors.T).argmax(axis=1), np.arange(len(scene)))


def test_half_of_a_picture_is_nearest_to_the_whole(vlad: Vlad, scene: list[Descriptors]) -> None:
    vectors = np.stack([vlad.describe(block) for block in scene])
    halves = np.stack([vlad.describe(block[::2]) for block in scene])
    assert ((halves @ vectors.T).argmax(axis=1) == np.arange(len(scene))).mean() > 0.9


def test_the_order_of_the_descriptors_is_nothing(vlad: Vlad, scene: list[Descriptors]) -> None:
    shuffled = np.random.default_rng(1).permutation(scene[3])
    np.testing.assert_allclose(vlad.describe(shuffled), vlad.describe(scene[3]), atol=1e-5)


def test_vectors_have_length_one(vlad: Vlad, scene: list[Descriptors]) -> None:
    for block in scene:
        vector = vlad.describe(block)
        assert vector.shape == (20,) and vector.dtype == np.float32
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)


def test_it_is_the_formula(vlad: Vlad, scene: list[Descriptors]) -> None:
    """v_k = Σ (x_i - c_k) over the members of word k, each of length one, then all, then projected."""
    block = scene[7]
    unit = as_unit(block).astype(np.float64)
    words = vlad.words.astype(np.float64)
    nearest = np.linalg.norm(unit[:, None] - words[None], axis=-1).argmin(axis=1)
    parts = np.zeros(words.shape)
    for word in range(len(words)):
        total = (unit[nearest == word] - words[word]).sum(axis=0)
        parts[word] = total / max(np.linalg.norm(total), 1e-12)
    whole = parts.ravel() / np.linalg.norm(parts)
    projected = vlad.axes @ (whole - vlad.mean)
    np.testing.assert_allclose(vlad.describe(block), projected / np.linalg.norm(projected), atol=1e-4)


def test_the_axes_are_orthonormal_and_no_more_than_asked_for(vlad: Vlad) -> None:
    assert vlad.words.shape == (16, 128) and vlad.axes.shape == (20, 16 * 128) and vlad.mean.shape == (16 * 128,)
    np.testing.assert_allclose(vlad.axes @ vlad.axes.T, np.eye(20), atol=1e-2)


def test_the_seed_decides(scene: list[Descriptors]) -> None:
    first, again, other = (Vlad.train(scene, words=16, seed=seed) for seed in (1, 1, 2))
    for name, value in vars(first).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    assert not np.array_equal(first.words, other.words)


def test_a_map_keeps_it_to_the_bit(vlad: Vlad, scene: list[Descriptors]) -> None:
    tensors = vlad.tensors()
    back = Vlad.from_tensors(tensors)
    for block in scene:
        np.testing.assert_array_equal(back.describe(block), vlad.describe(block))
    for name, value in back.tensors().items():
        np.testing.assert_array_equal(value, tensors[name])
        assert value.dtype == np.float16


@pytest.mark.parametrize("size", [0, 1, 5])
def test_a_picture_with_hardly_any_descriptors_has_a_vector(vlad: Vlad, scene: list[Descriptors], size: int) -> None:
    vector = vlad.describe(scene[0][:size])
    assert vector.shape == (20,) and np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1.0 if size else 0.0, abs=1e-5)


@pytest.mark.parametrize("sizes", [(0, 0), (1,), (0, 1), (5, 0, 0), (1, 5), (0, 5, 200)])
def test_training_takes_whatever_there_is(scene: list[Descriptors], sizes: tuple[int, ...]) -> None:
    blocks = [scene[index][:size] for index, size in enumerate(sizes)]
    vlad = Vlad.train(blocks, words=64, dimensions=32)
    vectors = np.stack([vlad.describe(block) for block in blocks])
    assert len(vectors) == len(sizes) and np.isfinite(vectors).all()
    assert len(vlad.words) <= max(1, sum(sizes) // 2)


def test_words_that_nothing_is_near_to_are_no_matter() -> None:
    """Pictures of one repeated descriptor leave most of the words empty."""
    blocks = [np.tile(block, (40, 1)) for block in (np.full(128, 7, np.uint8), np.arange(128, dtype=np.uint8))]
    vlad = Vlad.train(blocks, words=16)
    first, second = (vlad.describe(block) for block in blocks)
    assert first @ second < 0.5 < first @ first
