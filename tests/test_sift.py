"""SIFT: where a keypoint lies in our pixels, and matching against the plain definition."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from placecell.sift import UNIT, Sift, as_unit, load_features, match, save_features


def blob(x_px: float, y_px: float, sigma_px: float, size: tuple[int, int] = (128, 100)) -> NDArray[np.uint8]:
    """A grey Gaussian blob centred at a place counted from the outer corner of the top-left pixel."""
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    bump = np.exp(-((x - x_px) ** 2 + (y - y_px) ** 2) / (2 * sigma_px**2))
    return np.round(30 + 200 * bump).astype(np.uint8)


def textured(width: int = 200, height: int = 150, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth noise with structure at several scales, RGB."""
    rng = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(rng.standard_normal((height, width, 3)), (0, 0), sigma) * sigma for sigma in (1.5, 3, 6)]
    total = np.sum(layers, axis=0)
    return np.clip(128 + 60 * total / total.std(), 0, 255).astype(np.uint8)


def random_descriptors(count: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 90, (count, 128)).astype(np.uint8)


class TestDetect:
    @pytest.mark.parametrize("sigma_px", [1.5, 2.0, 3.0, 5.0, 8.0])
    @pytest.mark.parametrize("place", [(60.5, 50.5), (60.0, 50.0), (60.25, 50.6), (63.7, 44.1)])
    def test_a_blob_is_found_where_it_is(self, place: tuple[float, float], sigma_px: float) -> None:
        found = Sift().detect(blob(*place, sigma_px))
        off_px = np.linalg.norm(found.pixels - place, axis=1)
        nearest = int(off_px.argmin())
        assert off_px[nearest] < 0.1
        assert found.scales_px[nearest] == pytest.approx(sigma_px, rel=0.15)

    def test_the_picture_shifted_by_seven_shifts_the_features_by_seven(self) -> None:
        wide = textured()
        shift = np.array([7, 4])
        first = Sift(count=5000).detect(wide[: -shift[1], : -shift[0]])
        second = Sift(count=5000).detect(wide[shift[1] :, shift[0] :])
        inner = np.logical_and(first.pixels > 40, first.pixels < np.array([150, 100])).all(axis=1)
        off_px = np.linalg.norm(first.pixels[inner, None] - shift - second.pixels[None], axis=-1)
        assert inner.sum() > 30
        # Coarser octaves sample every second or fourth pixel, so a shift is exact for most features, not for all.
        assert np.median(off_px.min(axis=1)) < 0.02
        assert (off_px.min(axis=1) < 0.5).mean() > 0.8

    @pytest.mark.parametrize("value", [0, 128, 255])
    @pytest.mark.parametrize("shape", [(100, 120, 3), (100, 120)])
    def test_a_blank_picture_has_none(self, shape: tuple[int, ...], value: int) -> None:
        found = Sift().detect(np.full(shape, value, np.uint8))
        assert len(found) == 0
        assert (found.pixels.shape, found.descriptors.shape) == ((0, 2), (0, 128))
        assert found.scales_px.shape == found.angles_rad.shape == (0,)
        assert found.descriptors.dtype == np.uint8

    @pytest.mark.parametrize("count", [1, 10, 50])
    def test_the_count_is_kept_and_the_strongest_stay(self, count: int) -> None:
        image = textured()
        everything = Sift(count=10_000).detect(image)
        found = Sift(count=count).detect(image)
        assert len(everything) > 100
        assert len(found) == count
        np.testing.assert_array_equal(found.pixels, everything.pixels[:count])

    def test_lower_contrast_finds_more(self) -> None:
        faint = (128 + (textured().astype(np.float64) - 128) / 8).astype(np.uint8)
        assert len(Sift(contrast=0.005).detect(faint)) > len(Sift(contrast=0.04).detect(faint))

    def test_types_and_ranges(self) -> None:
        found = Sift().detect(textured())
        assert found.pixels.dtype == found.scales_px.dtype == found.angles_rad.dtype == np.float32
        assert (found.pixels >= 0).all() and (found.pixels <= (200, 150)).all()
        assert (found.angles_rad >= 0).all() and (found.angles_rad <= 2 * np.pi + 1e-5).all()
        norms = np.linalg.norm(found.descriptors.astype(np.float64), axis=1)
        np.testing.assert_allclose(norms, UNIT, rtol=0.02)

    def test_descriptors_are_the_roots_of_sift(self) -> None:
        image = cv2.cvtColor(textured(), cv2.COLOR_RGB2GRAY)
        detector = cv2.SIFT.create(nfeatures=50, contrastThreshold=0.0133, enable_precise_upscale=True)
        keypoints, raw = detector.detectAndCompute(image, None)
        order = np.argsort([-keypoint.response for keypoint in keypoints], kind="stable")[:50]
        plain = raw[order].astype(np.float64)
        expected = np.sqrt(plain / plain.sum(axis=1, keepdims=True))
        np.testing.assert_allclose(Sift(count=50).detect(image).descriptors / UNIT, expected, atol=0.51 / UNIT)

    def test_colours_are_red_green_blue(self) -> None:
        image = textured()
        grey = np.round(image @ [0.299, 0.587, 0.114]).astype(np.uint8)
        in_colour, in_grey = Sift(count=300).detect(image), Sift(count=300).detect(grey)
        off_px = np.linalg.norm(in_colour.pixels[:, None] - in_grey.pixels[None], axis=-1).min(axis=1)
        assert (off_px < 0.2).mean() > 0.9


class TestFiles:
    @pytest.mark.parametrize("image", [textured(), np.zeros((64, 64, 3), np.uint8)], ids=["many", "none"])
    def test_features_come_back_as_they_were(self, image: NDArray[np.uint8], tmp_path: Path) -> None:
        found = Sift().detect(image)
        save_features(found, tmp_path / "features.safetensors")
        back = load_features(tmp_path / "features.safetensors")
        for name, value in vars(found).items():
            np.testing.assert_array_equal(getattr(back, name), value)
            assert getattr(back, name).dtype == value.dtype


def plain_match(
    first: NDArray[np.float32], second: NDArray[np.float32], ratio: float, mutual: bool
) -> list[tuple[int, int]]:
    """Nearest neighbours by the definition: Euclidean distances, Lowe's ratio, and each used once."""
    found: list[tuple[float, int, int]] = []
    for i, row in enumerate(first.astype(np.float64)):
        distance = np.linalg.norm(second.astype(np.float64) - row, axis=1)
        best, runner_up = np.argsort(distance, kind="stable")[:2]
        if distance[best] < ratio * distance[runner_up]:
            found.append((float(distance[best]), i, int(best)))
    if not mutual:
        return sorted((i, j) for _, i, j in found)
    used: set[int] = set()
    kept = []
    for _, i, j in sorted(found):
        if j not in used:
            used.add(j)
            kept.append((i, j))
    return sorted(kept)


class TestMatch:
    @pytest.mark.parametrize("mutual", [True, False])
    @pytest.mark.parametrize("ratio", [0.7, 0.8, 0.97])
    def test_it_is_what_the_definition_says(self, ratio: float, mutual: bool) -> None:
        rng = np.random.default_rng(0)
        stored = random_descriptors(180, 1)
        # Noisy copies of some, several of the same: the crowd that `mutual` is for;
        # and from clear to hopeless, so that many ratios are near the limit.
        spoiled = rng.uniform(5, 80, (300, 1)) * rng.uniform(-1, 1, (300, 128))
        copies = stored[rng.integers(0, 60, 300)] + spoiled.round().astype(np.int64)
        first, second = as_unit(np.clip(copies, 0, 255).astype(np.uint8)), as_unit(stored)
        found = match(first, second, ratio=ratio, mutual=mutual)
        pairs = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
        assert len(pairs) > 20
        assert pairs == plain_match(first, second, ratio, mutual)
        cosines = np.einsum("nd,nd->n", first[found.first], second[found.second])
        np.testing.assert_allclose(found.similarity, cosines, atol=1e-5)

    def test_mutual_uses_nothing_twice(self) -> None:
        stored = random_descriptors(40, 2)
        noisy = stored[np.arange(200) % 10].astype(np.int64) + np.random.default_rng(3).integers(-9, 9, (200, 128))
        first, second = as_unit(np.clip(noisy, 0, 255).astype(np.uint8)), as_unit(stored)
        once, often = match(first, second), match(first, second, mutual=False)
        assert len(set(once.second.tolist())) == len(once.second) == 10
        assert len(set(once.first.tolist())) == len(once.first)
        assert len(often.second) == 200

    @given(st.integers(2, 40), st.integers(0, 1000))
    def test_a_set_matches_itself_in_order(self, count: int, seed: int) -> None:
        unit = as_unit(random_descriptors(count, seed))
        found = match(unit, unit)
        np.testing.assert_array_equal(found.first, np.arange(count))
        np.testing.assert_array_equal(found.second, np.arange(count))

    def test_twins_are_ambiguous_and_match_nothing(self) -> None:
        stored = random_descriptors(300, 4)
        found = match(as_unit(stored), as_unit(np.concatenate([stored, stored])))
        assert len(found.first) == 0

    @pytest.mark.parametrize("sizes", [(0, 5), (5, 0), (0, 0), (5, 1)])
    def test_too_few_match_nothing(self, sizes: tuple[int, int]) -> None:
        first, second = (as_unit(random_descriptors(size, 5)) for size in sizes)
        found = match(first, second)
        assert len(found.first) == len(found.second) == len(found.similarity) == 0


class TestAsUnit:
    def test_rows_have_length_one_and_keep_their_direction(self) -> None:
        stored = random_descriptors(20, 6)
        unit = as_unit(stored)
        assert unit.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1.0, atol=1e-6)
        np.testing.assert_allclose(
            unit * np.linalg.norm(stored.astype(float), axis=1, keepdims=True), stored, atol=1e-3
        )

    def test_zeros_stay_zeros(self) -> None:
        assert (as_unit(np.zeros((2, 128), np.uint8)) == 0).all()
